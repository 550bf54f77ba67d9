"""Comparison of strings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from finetune.metrics.fields import read_prediction, read_references
from finetune.metrics.metric import mean_score


def score_exact_match(
    prediction: str, references: Sequence[str], *, lower: bool = False, strip: bool = False
) -> float:
    """Return 100 where the prediction equals one of the references, and else 0."""

    def normalize(text: str) -> str:
        text = text.lower() if lower else text
        return text.strip() if strip else text

    return 100.0 * (normalize(prediction) in {normalize(reference) for reference in references})


@dataclass(frozen=True)
class ExactMatch:
    """Share of predictions equal to one of the references, in percent."""

    higher_is_better: ClassVar[Mapping[str, bool]] = {"exact_match": True}

    lower: bool = False
    """Compare in lower case."""
    strip: bool = False
    """Ignore white space at both ends."""

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100."""
        prediction, references = read_prediction(row), read_references(row)
        return score_exact_match(prediction, references, lower=self.lower, strip=self.strip)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `exact_match`."""
        return {"exact_match": mean_score(self, rows)}


@dataclass(frozen=True)
class AnyMatch:
    """Share of predictions that at least one annotator gave, in percent.

    Source: big_vision's `acc_any` (evaluators/proj/paligemma/transfers/vqa.py).
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"any_match": True}

    lower: bool = False
    """Compare in lower case."""

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100."""
        return score_exact_match(read_prediction(row), read_references(row), lower=self.lower)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `any_match`."""
        return {"any_match": mean_score(self, rows)}
