"""Counting: how many of something there are (TallyQA, CountBenchQA)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from finetune.metrics.fields import parse_references, read_prediction, read_references
from finetune.metrics.metric import mean_score

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
_COUNT = re.compile(r"[0-9]{1,9}")
_NUMERALS = {word: str(number) for number, word in enumerate(_WORDS)} | {"none": "0"}

# One sentence, or one run of digits, in place of a number would otherwise decide the mean alone.
MOST_ERROR = 20


def normalize_count(text: str) -> str:
    """Write a number word, `none` and `zero` to `twenty` in any case, as a numeral; leave other text alone.

    White space is not ignored.

    Source: big_vision evaluators/proj/paligemma/transfers/tallyqa.py.
    """
    return _NUMERALS.get(text.lower(), text)


def read_count(text: str) -> int | None:
    """Return the number that a text is, or None; more than nine digits are not a count."""
    numeral = normalize_count(text)
    return int(numeral) if _COUNT.fullmatch(numeral) else None


def score_count(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where the prediction is one of the references, number words read, and else 0."""
    return 100.0 * (normalize_count(prediction) in {normalize_count(reference) for reference in references})


def count_error(prediction: str, counts: Sequence[int]) -> int:
    """Return the distance of a prediction to the nearest count: at most 20, and 20 where it is no count."""
    number = read_count(prediction)
    if number is None:
        return MOST_ERROR
    return min(MOST_ERROR, *(abs(number - count) for count in counts))


@dataclass(frozen=True)
class Counting:
    """Counts: accuracy and share within 1 in percent, and mean absolute error.

    `accuracy` and `within_1`, the share at most one off, are in percent; `mae`, the mean absolute error,
    is in things counted, with no error above 20 and an answer that is not a number counted as 20 off.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"accuracy": True, "mae": False, "within_1": True}

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100."""
        _read_counts(row)
        return score_count(read_prediction(row), read_references(row))

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `accuracy`, `mae` and `within_1`."""
        errors = [count_error(read_prediction(row), _read_counts(row)) for row in rows]
        return {
            "accuracy": mean_score(self, rows),
            "mae": sum(errors) / len(errors),
            "within_1": 100.0 * sum(error <= 1 for error in errors) / len(errors),
        }


def _read_counts(row: Mapping[str, object]) -> list[int]:
    return parse_references(row, read_count, "be a number, such as `3` or `three`")
