"""Relaxed accuracy: numbers may be five percent off (ChartQA)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from finetune.metrics.fields import read_prediction, read_references
from finetune.metrics.metric import mean_of_groups

TOLERANCE = 0.05


def score_relaxed_accuracy(
    prediction: str, references: Sequence[str], *, strip: bool = False, case_sensitive: bool = False
) -> float:
    """Return 100 where the prediction matches one of the references, and else 0.

    Two numbers match when they differ by at most 5 % of the reference; where one of the two is not a
    number, or the reference is zero, the strings must be equal. A number is what Python's `float` reads
    (no thousands separator, no currency), followed by `%` a hundredth.

    Source: google-research/pix2struct metrics.py (`relaxed_correctness`).
    """

    def normalize(text: str) -> str:
        text = text.strip() if strip else text
        return text if case_sensitive else text.lower()

    answer = normalize(prediction)
    return 100.0 * any(_matches(answer, normalize(reference)) for reference in references)


def _matches(answer: str, reference: str) -> bool:
    number, target = _parse_number(answer), _parse_number(reference)
    if number is not None and target:
        return abs(number - target) / abs(target) <= TOLERANCE
    return answer == reference


def _parse_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class RelaxedAccuracy:
    """ChartQA's accuracy with numbers within 5 %, in percent; also the mean over the groups.

    ChartQA's headline is `mean_of_groups`, the mean of its human and its augmented half.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"relaxed_accuracy": True, "mean_of_groups": True}

    strip: bool = False
    """Ignore white space at both ends."""
    case_sensitive: bool = False
    """Compare strings with their case."""

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100."""
        return score_relaxed_accuracy(
            read_prediction(row),
            read_references(row),
            strip=self.strip,
            case_sensitive=self.case_sensitive,
        )

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `relaxed_accuracy` and, where rows have groups, `mean_of_groups`, all of one weight."""
        overall, groups = mean_of_groups(self, rows)
        return {"relaxed_accuracy": overall, **({} if groups is None else {"mean_of_groups": groups})}
