"""Accuracy over all questions and over kinds of question (RSVQA, POPE's three halves)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from finetune.metrics.fields import check_choices, read_prediction, read_references, require_group
from finetune.metrics.metric import mean_of_groups
from finetune.metrics.text import score_exact_match
from finetune.metrics.yes_no import score_yes_no


class GroupedReading(StrEnum):
    """Readings of the answers under grouped accuracy."""

    exact = "exact"
    yes_no = "yes_no"


@dataclass(frozen=True)
class GroupedAccuracy:
    """Accuracy over all rows, and the mean over the groups, in percent.

    Every row has a `group`. In `average` every one that occurs has the same weight, however few its rows.

    Source: big_vision evaluators/proj/paligemma/transfers/rsvqa.py (`acc_any`, `acc_avg`).
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"overall": True, "average": True}

    reading: GroupedReading = GroupedReading.exact
    """`exact`: equal strings. `yes_no`: POPE's official reading, of answers to such references."""

    def __post_init__(self) -> None:
        check_choices(self)

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100."""
        if self.reading == GroupedReading.yes_no:
            return score_yes_no(row)
        return score_exact_match(read_prediction(row), read_references(row))

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `overall` and `average`."""
        overall, average = mean_of_groups(self, rows, require_group)
        return {"overall": overall, "average": average or 0.0}
