"""Accuracy over all questions and over kinds of question (RSVQA, POPE's three halves)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.metrics.fields import check_option, read_prediction, read_references, require_group
from finetune.metrics.metric import mean_score
from finetune.metrics.text import score_exact_match
from finetune.metrics.yes_no import score_yes_no

READINGS = ("exact", "yes_no")


class GroupedAccuracy:
    """Accuracy over all rows, and the mean of the groups' accuracies, in percent.

    In `average` every group that occurs has the same weight, however few its rows.

    Args:
        reading: `exact` compares the answer with the references as they are; `yes_no` reads a yes or a no
            from it as POPE's script does, and wants such references.

    Source: big_vision evaluators/proj/paligemma/transfers/rsvqa.py (`acc_any`, `acc_avg`).
    """

    higher_is_better: Mapping[str, bool] = {"overall": True, "average": True}

    def __init__(self, reading: str = "exact") -> None:
        check_option("reading", reading, READINGS)
        self.reading = reading

    def score(self, row: Mapping[str, Any]) -> float:
        """Score one row: 0 or 100.

        Raises:
            UserError: the row has no prediction, or not the references that the reading wants.
        """
        if self.reading == "yes_no":
            return score_yes_no(row)
        return score_exact_match(read_prediction(row), read_references(row))

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return `overall` and `average`.

        Raises:
            UserError: a row has no group.
        """
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            groups[require_group(row)].append(row)
        average = sum(mean_score(self, members) for members in groups.values()) / len(groups)
        return {"overall": mean_score(self, rows), "average": average}
