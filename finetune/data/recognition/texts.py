"""The kind of task that texts about images are for, by what the first rows have."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from finetune.data.formats.turns import ANSWERS, read_turns
from finetune.data.reading.faults import Faults
from finetune.data.reading.record import Record
from finetune.data.reading.tables import read_json_rows, read_records
from finetune.data.recognition.kinds import Kind, Purpose
from finetune.errors import UserError

MOST_ROWS = 2000
"""Rows of a file that are looked at."""
_MOST_WITH_BYTES = 64

_SHORT = 8
"""Words: what is longer on average is compared as a text, not as one answer."""
_BOXES = re.compile(r"\s*(<loc[0-9]{4}>){4}")
_PLACEHOLDERS = re.compile(r"(\s*(<ref-object>)?\s*<bbox>[\s,;]*)+")
_CAPTION = re.compile(r"\s*(caption|cap|describe)\b", re.IGNORECASE)


def sample(file: str) -> list[Record]:
    """Return the first rows of a file that can be read; faults are reported when it is read as a whole."""
    most = _MOST_WITH_BYTES if file.lower().endswith(".parquet") else MOST_ROWS
    return [record for _, record in islice(read_records(Faults(skip=True), file), most)]


def recognize_pairs(rows: Iterable[Record], prefix: str = "prefix", suffix: str = "suffix") -> Purpose:
    """Return what rows with a prompt and its answer are for.

    Args:
        rows: the first rows.
        prefix: key of the prompt.
        suffix: key of the answer, or of the accepted answers.
    """
    rows = list(rows)
    answers = [text for row in rows for text in texts_of(row.get(suffix))]
    return Purpose(kind_of_answers(answers, [str(row.get(prefix) or "") for row in rows]))


def recognize_conversations(file: str) -> Purpose:
    """Return what conversations are for, and whether they have system turns, which are left out."""
    answers, prompts, has_system = [], [], False
    for _, record in islice(read_json_rows(Faults(skip=True), file), MOST_ROWS):
        try:
            turns = read_turns(record)
        except UserError:
            continue  # reported when the whole file is read
        answers += [turn.text for turn in turns if turn.role in ANSWERS]
        prompts += [turn.text for turn in turns if turn.role not in ANSWERS]
        has_system = has_system or any(turn.role == "system" for turn in turns)
    return Purpose(kind_of_answers(answers, prompts), {"ignore_system": "true"} if has_system else {})


def kind_of_answers(answers: Sequence[str], prompts: Sequence[str] = ()) -> Kind:
    """Return the kind of pairs of prompts and answers."""
    filled = [answer for answer in answers if answer.strip()]
    if filled and all(_BOXES.match(text) or _PLACEHOLDERS.fullmatch(text) for text in filled):
        return Kind.box_pairs
    if filled and all(map(is_json, filled)):
        return Kind.extraction
    words = sum(len(text.split()) for text in filled)
    asks_caption = any(prompts) and all(_CAPTION.match(text) for text in prompts if text.strip())
    return Kind.long_pairs if asks_caption or words > _SHORT * len(filled) else Kind.pairs


def is_json(text: str) -> bool:
    """Return whether a text is a JSON object or list."""
    if text.strip()[:1] not in {"{", "["}:
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def texts_of(value: object) -> Iterator[str]:
    """Yield the texts of a cell: a text, a number, or several; objects as JSON."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield json.dumps(item, ensure_ascii=False, default=str)
        elif item is not None and not isinstance(item, bytes):
            yield str(item)
