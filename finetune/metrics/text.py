"""Comparison of strings."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.metrics.fields import read_prediction, read_references
from finetune.metrics.metric import mean_score


def score_exact_match(
    prediction: str, references: Sequence[str], *, lower: bool = False, strip: bool = False
) -> float:
    """Return 100 where the prediction equals one of the references, and else 0."""

    def normalise(text: str) -> str:
        text = text.lower() if lower else text
        return text.strip() if strip else text

    return 100.0 * (normalise(prediction) in {normalise(reference) for reference in references})


class ExactMatch:
    """Share of predictions equal to one of the references, in percent.

    Args:
        lower: compare in lower case.
        strip: ignore white space at both ends.
    """

    higher_is_better: Mapping[str, bool] = {"exact_match": True}

    def __init__(self, lower: bool = False, strip: bool = False) -> None:
        self.lower = lower
        self.strip = strip

    def score(self, row: Mapping[str, Any]) -> float:
        """Score one row: 0 or 100.

        Raises:
            UserError: the row has no prediction or no references.
        """
        prediction, references = read_prediction(row), read_references(row)
        return score_exact_match(prediction, references, lower=self.lower, strip=self.strip)

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return `exact_match`."""
        return {"exact_match": mean_score(self, rows)}


class AnyMatch:
    """Share of predictions that at least one annotator gave, in percent.

    Source: big_vision's `acc_any` (evaluators/proj/paligemma/transfers/vqa.py).

    Args:
        lower: compare in lower case.
    """

    higher_is_better: Mapping[str, bool] = {"any_match": True}

    def __init__(self, lower: bool = False) -> None:
        self.lower = lower

    def score(self, row: Mapping[str, Any]) -> float:
        """Score one row: 0 or 100.

        Raises:
            UserError: the row has no prediction or no references.
        """
        return score_exact_match(read_prediction(row), read_references(row), lower=self.lower)

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return `any_match`."""
        return {"any_match": mean_score(self, rows)}
