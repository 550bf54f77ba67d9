"""Accuracy over all questions and over kinds of question (RSVQA, POPE's three halves)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from finetune.metrics.fields import check_choices, read_prediction, read_references, require_group
from finetune.metrics.metric import mean_score
from finetune.metrics.text import score_exact_match
from finetune.metrics.yes_no import score_yes_no


class GroupedReading(StrEnum):
    """Readings of the answers under grouped accuracy."""

    exact = "exact"
    yes_no = "yes_no"


@dataclass(frozen=True)
class GroupedAccuracy:
    """Accuracy over all rows, and the mean over the groups, in percent.

    In `average` every group that occurs has the same weight, however few its rows.

    Source: big_vision evaluators/proj/paligemma/transfers/rsvqa.py (`acc_any`, `acc_avg`).
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"overall": True, "average": True}

    reading: GroupedReading = GroupedReading.exact
    """`exact`: equal strings. `yes_no`: POPE's official reading, of answers to such references."""

    def __post_init__(self) -> None:
        check_choices(self)

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100.

        Raises:
            UserError: the row has no prediction, or not the references that the reading wants.
        """
        if self.reading == GroupedReading.yes_no:
            return score_yes_no(row)
        return score_exact_match(read_prediction(row), read_references(row))

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `overall` and `average`.

        Raises:
            UserError: a row has no group.
        """
        groups: dict[str, list[Mapping[str, object]]] = defaultdict(list)
        for row in rows:
            groups[require_group(row)].append(row)
        average = sum(mean_score(self, members) for members in groups.values()) / len(groups)
        return {"overall": mean_score(self, rows), "average": average}
