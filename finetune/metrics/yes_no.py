"""Yes or no: accuracy, and how readily the answer is yes (POPE)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from finetune.errors import UserError
from finetune.metrics.fields import check_choices, name_row, read_prediction, read_references
from finetune.metrics.metric import mean_score


class YesNoReading(StrEnum):
    """Readings of a yes or no."""

    official = "official"
    exact = "exact"


def read_yes_no(text: str, reading: YesNoReading = YesNoReading.official) -> bool | None:
    """Return whether an answer says yes, or None where it says neither.

    Args:
        text: the answer.
        reading: `official` says no where the first sentence has the word `no`, `No` or `not`, and else
            yes, whatever it is; `exact` reads `yes` and `no` in any case, and nothing else.

    Source: `official`: RUCAIBox/POPE evaluate.py. `exact`: big_vision
        evaluators/proj/paligemma/transfers/pope.py.
    """
    if reading == YesNoReading.exact:
        return {"yes": True, "no": False}.get(text.lower())
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


def read_yes_no_reference(row: Mapping[str, object]) -> bool:
    """Return whether the right answer is yes.

    Raises:
        UserError: the references are neither all yes nor all no.
    """
    references = read_references(row)
    truths = {read_yes_no(reference, YesNoReading.exact) for reference in references}
    if truths == {True}:
        return True
    if truths == {False}:
        return False
    raise UserError(f"{name_row(row)}: expected the reference to be `yes` or `no`, but got {references!r}.")


def score_yes_no(row: Mapping[str, object], reading: YesNoReading = YesNoReading.official) -> float:
    """Return 100 where a row's answer is the right one, and else 0.

    Raises:
        UserError: the row has no prediction, or its reference is neither yes nor no.
    """
    return 100.0 * (read_yes_no(read_prediction(row), reading) is read_yes_no_reference(row))


@dataclass(frozen=True)
class YesNo:
    """POPE: accuracy, precision, recall and F1 of yes, and the share of yes, in percent.

    Precision, recall and F1 are 0 where they have nothing to divide by. Under `exact` an answer that is
    neither is wrong, and is not a yes.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "accuracy": True,
        "precision": True,
        "recall": True,
        "f1": True,
        # Half is right for POPE; more is not better, and neither is less.
        "yes_ratio": False,
    }

    reading: YesNoReading = YesNoReading.official
    """`official`: anything that is not a `no` is a yes. `exact`: only `yes` and `no` count."""

    def __post_init__(self) -> None:
        check_choices(self)

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100."""
        return score_yes_no(row, self.reading)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `accuracy`, `precision`, `recall`, `f1` and `yes_ratio`."""
        answers = [read_yes_no(read_prediction(row), self.reading) is True for row in rows]
        truths = [read_yes_no_reference(row) for row in rows]
        both = sum(answer and truth for answer, truth in zip(answers, truths, strict=True))
        return {
            "accuracy": mean_score(self, rows),
            "precision": _percent(both, sum(answers)),
            "recall": _percent(both, sum(truths)),
            "f1": _percent(2 * both, sum(answers) + sum(truths)),
            "yes_ratio": _percent(sum(answers), len(rows)),
        }


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
