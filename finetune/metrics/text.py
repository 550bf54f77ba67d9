"""Comparison of strings."""

from collections.abc import Mapping, Sequence
from typing import Any

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
        """Score one row: 0 or 100."""
        return score_exact_match(row["prediction"], row["references"], lower=self.lower, strip=self.strip)

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return `exact_match`."""
        return {"exact_match": mean_score(self, rows)}
