"""Multiple choice: the letter that an answer names (ScienceQA, AI2D, MMVP)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from finetune.metrics.fields import check_choices, parse_references, read_prediction
from finetune.metrics.metric import mean_score

_SENTENCE = re.compile(r"the answer is ([a-z])\.")
# No letter may follow, or `The answer is apples` would choose A.
_SENTENCE_ANYWHERE = re.compile(r"\bthe answer is \(?([a-z])\b")
_LETTER_FIRST = re.compile(r"\(?([a-z])(?:\)|[.:](?:\s|$)|$)")
_LETTER_ALONE = re.compile(r"[a-z]")


class ChoiceReading(StrEnum):
    """Readings of a multiple-choice answer."""

    lenient = "lenient"
    letter = "letter"
    sentence = "sentence"


def read_choice(text: str, reading: ChoiceReading = ChoiceReading.lenient) -> str | None:
    """Return the letter that an answer names, in upper case, or None where it names none.

    Args:
        text: the answer, in either case.
        reading: `sentence` wants `The answer is B.` at the start; `letter` wants `B` and nothing else but
            white space around it; `lenient` takes `The answer is B.` at the start, whatever follows, `B`,
            `B.`, `(B)`, `B. the text of the choice`, or `the answer is B` anywhere, if it occurs
            once.

    Source: `sentence`: big_vision evaluators/proj/paligemma/transfers/science_qa.py. `lenient`: the forms
        that LLaVA's eval_science_qa.py reads, and lower case. Neither guesses where it reads nothing,
        as ScienceQA's own script does.
    """
    lowered = text.lower()
    if reading == ChoiceReading.sentence:
        match = _SENTENCE.match(lowered)
        return match[1].upper() if match else None
    lowered = lowered.strip()
    if reading == ChoiceReading.letter:
        return lowered.upper() if _LETTER_ALONE.fullmatch(lowered) else None
    first = _SENTENCE.match(lowered) or _LETTER_FIRST.match(lowered)
    if first:
        return first[1].upper()
    letters = _SENTENCE_ANYWHERE.findall(lowered)
    return letters[0].upper() if len(letters) == 1 else None


@dataclass(frozen=True)
class Choice:
    """Multiple choice: accuracy, and the share of unreadable answers, in percent.

    An answer that names no letter is wrong. The references may be letters or whole sentences.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"accuracy": True, "unreadable": False}

    reading: ChoiceReading = ChoiceReading.lenient
    """`lenient`: a letter or a sentence in any usual form; `letter` or `sentence`: only that."""

    def __post_init__(self) -> None:
        check_choices(self)

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 or 100."""
        letters = parse_references(row, read_choice, "name a choice, such as `B` or `The answer is B.`")
        return 100.0 * (read_choice(read_prediction(row), self.reading) in letters)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `accuracy` and `unreadable`."""
        unreadable = sum(read_choice(read_prediction(row), self.reading) is None for row in rows)
        return {"accuracy": mean_score(self, rows), "unreadable": 100.0 * unreadable / len(rows)}
