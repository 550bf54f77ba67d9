"""The beginning of a JSON file: enough to see what it has."""

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from finetune.data.reading.json_stream import JsonStream
from finetune.errors import UserError

_CHARACTERS = 4 << 20


class Peek(NamedTuple):
    """What a JSON file begins with."""

    kind: str
    """`list` (a list at the top), `lines` (one object after the other) or `object`."""
    first: dict[str, object]
    """The first object of a list or of lines; of an object, its keys with their values, and the first item
    of a list in place of the list, as far as they are in the beginning of the file."""


def peek_json(file: Path) -> Peek | None:
    """Return what a JSON file begins with; None if it is not JSON, or does not begin with objects."""
    try:
        status = file.stat()
    except OSError:
        return None
    return _peek(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)  # every format looks at the same files
def _peek(file: Path, size: int, time: int) -> Peek | None:
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            text = stream.read(_CHARACTERS)
    except OSError:
        return None
    start = text.lstrip()[:1]
    if start not in {"[", "{"}:
        return None
    first = _read_first(text) if start == "[" else _read_keys(text, file)
    if start == "{" and file.suffix.lower() in {".jsonl", ".ndjson"}:
        first = _decode(text.lstrip()) or {}
        return Peek("lines", first)
    if start == "[":
        return None if first is None else Peek("list", first)
    rest = _rest_of_object(text)
    return (
        Peek("lines", _decode(text.lstrip()) or {}) if rest.startswith("{") else Peek("object", first or {})
    )


def _decode(text: str) -> dict[str, object] | None:
    try:
        value = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_first(text: str) -> dict[str, object] | None:
    return _decode(text.lstrip()[1:].lstrip())


def _rest_of_object(text: str) -> str:
    try:
        return text.lstrip()[json.JSONDecoder().raw_decode(text.lstrip())[1] :].lstrip()
    except (ValueError, RecursionError):
        return ""


def _read_keys(text: str, file: Path) -> dict[str, object]:
    """Return keys and values, or first items, of an object that may be cut short."""
    reader, content = JsonStream(io.StringIO(text), file, "object at its top"), dict[str, object]()
    try:
        for key in reader.object():
            content[key] = None
            if reader.peek() == "[":
                for item in reader.array(reader.value):
                    content[key] = item.value if content[key] is None else content[key]
            else:
                content[key] = reader.value().value
    except (UserError, RecursionError):
        pass  # the file, or its beginning, ends here
    return content
