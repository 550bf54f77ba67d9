"""Multiple choice: the letter that an answer names (ScienceQA, AI2D, MMVP)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError
from finetune.metrics.fields import check_option, name_row, read_prediction, read_references
from finetune.metrics.metric import mean_score

READINGS = ("lenient", "letter", "sentence")

_SENTENCE = re.compile(r"the answer is ([a-z])\.")
# No letter may follow, or `The answer is apples` would choose A.
_SENTENCE_ANYWHERE = re.compile(r"\bthe answer is \(?([a-z])\b")
_LETTER_FIRST = re.compile(r"\(?([a-z])(?:\)|[.:](?:\s|$)|$)")
_LETTER_ALONE = re.compile(r"[a-z]")


def read_choice(text: str, reading: str = "lenient") -> str | None:
    """Return the letter that an answer names, in upper case, or null where it names none.

    Args:
        text: the answer, in either case.
        reading: `sentence` wants `The answer is B.` at the start; `letter` wants `B` and nothing else but
            white space around it; `lenient` takes `The answer is B.` at the start, whatever follows, `B`,
            `B.`, `(B)`, `B. the text of the choice`, or `the answer is B` anywhere, if it stands there
            once.

    Source: `sentence`: big_vision evaluators/proj/paligemma/transfers/science_qa.py. `lenient`: the forms
        that LLaVA's eval_science_qa.py reads, and lower case. Neither guesses where it reads nothing,
        as ScienceQA's own script does.
    """
    lowered = text.lower()
    if reading == "sentence":
        match = _SENTENCE.match(lowered)
        return match[1].upper() if match else None
    lowered = lowered.strip()
    if reading == "letter":
        return lowered.upper() if _LETTER_ALONE.fullmatch(lowered) else None
    first = _SENTENCE.match(lowered) or _LETTER_FIRST.match(lowered)
    if first:
        return first[1].upper()
    said = _SENTENCE_ANYWHERE.findall(lowered)
    return said[0].upper() if len(said) == 1 else None


class Choice:
    """Share of answers that name the right letter, and of those that name none, in percent.

    An answer that names no letter is wrong. The references may be letters or whole sentences.

    Args:
        reading: `lenient`, `letter` or `sentence`; see `read_choice`.
    """

    higher_is_better: Mapping[str, bool] = {"accuracy": True, "unreadable": False}

    def __init__(self, reading: str = "lenient") -> None:
        check_option("reading", reading, READINGS)
        self.reading = reading

    def score(self, row: Mapping[str, Any]) -> float:
        """Score one row: 0 or 100.

        Raises:
            UserError: the row has no prediction, or a reference names no letter.
        """
        return 100.0 * (read_choice(read_prediction(row), self.reading) in self._letters(row))

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return `accuracy` and `unreadable`."""
        unreadable = sum(read_choice(read_prediction(row), self.reading) is None for row in rows)
        return {"accuracy": mean_score(self, rows), "unreadable": 100.0 * unreadable / len(rows)}

    def _letters(self, row: Mapping[str, Any]) -> set[str]:
        letters = set()
        for reference in read_references(row):
            letter = read_choice(reference)
            if letter is None:
                raise UserError(
                    f"{name_row(row)}: expected the reference to name a choice, such as `B` or "
                    f"`The answer is B.`, but got {reference!r}."
                )
            letters.add(letter)
        return letters
