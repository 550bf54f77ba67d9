"""Read JSON files: whole, line by line, or item by item where the whole need not fit in memory."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from finetune.errors import UserError

_CHUNK = 1 << 20
_SPACE_OR_COMMA = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")

_decode_item = json.JSONDecoder().raw_decode


class Record(dict[str, Any]):
    """A JSON object that knows where it stands: asking for a key that it lacks is a `UserError`.

    Args:
        values: what was read.
        where: file and place, for error messages.

    Raises:
        UserError: it is no object.
    """

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected a JSON object, got {type(values).__name__}.")
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str) -> NoReturn:
        raise UserError(f"{self.where}: no `{key}`; the keys are: {', '.join(map(str, self)) or 'none'}.")


def pick(item: Any, where: str, *keys: str) -> tuple[Any, ...]:
    """Return the values of some keys of a JSON object.

    Args:
        item: the object.
        where: file and place, for the error message.
        keys: all must be there.

    Raises:
        UserError: it is no object, or a key is missing; the message lists those there are.
    """
    record = Record(item, where)
    return tuple(record[key] for key in keys)


def read_json(file: Path) -> Any:
    """Return the whole content of a file that fits in memory.

    Raises:
        UserError: there is no such file, or it is not whole.
    """
    if not file.is_file():
        raise UserError(f"No file {file}.")
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{file}: not whole JSON ({error}); copy it again.") from error


def iterate_json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield file and line number, for error messages, and the content of every line that is not blank.

    Raises:
        UserError: there is no such file, or a line is not whole.
    """
    if not file.is_file():
        raise UserError(f"No file {file}.")
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{file} line {number}"
                try:
                    item = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"{where}: not whole JSON ({error.msg}); copy the file again."
                    ) from error
                yield where, item


def iterate_records(file: Path, key: str | None = None) -> Iterator[Record]:
    """Yield the objects of an array as `iterate_json_array` finds it, each with its number from 1.

    Raises:
        UserError: as there; or an item is no object.
    """
    for number, item in enumerate(iterate_json_array(file, key), 1):
        yield Record(item, f"{file} item {number}")


def iterate_json_array(file: Path, key: str | None = None) -> Iterator[Any]:
    """Yield the items of `{"...": ..., key: [item, item, ...]}`.

    Args:
        file: the JSON file.
        key: name of the array in the object at the top; null: the file is the array.

    Raises:
        UserError: there is no such file or array, or the file ends in the middle.
    """
    if key is None:
        return _iterate(file, r"\A\s*\[", "]", _decode_item, "array at its top")
    return _iterate(file, rf'"{re.escape(key)}"\s*:\s*\[', "]", _decode_item, f"array `{key}`")


def iterate_json_object(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield keys and values of `{key: value, key: value, ...}`.

    Raises:
        UserError: there is no such file or object, or the file ends in the middle.
    """
    return _iterate(file, r"\A\s*\{", "}", _decode_pair, "object at its top")


def _decode_pair(text: str, position: int) -> tuple[tuple[str, Any], int]:
    key, end = _decode_item(text, position)
    colon = _COLON.match(text, end)
    if colon is None:
        raise json.JSONDecodeError("no `:`", text, end)
    value, end = _decode_item(text, colon.end())
    return (key, value), end


def _iterate(
    file: Path, start: str, stop: str, decode: Callable[[str, int], tuple[Any, int]], what: str
) -> Iterator[Any]:
    """Yield what `decode` reads between the pattern `start` and the character `stop`."""
    if not file.is_file():
        raise UserError(f"No file {file}.")
    opening = re.compile(start)
    with file.open(encoding="utf-8") as stream:
        text = ""
        while not (found := opening.search(text)):
            chunk = stream.read(_CHUNK)
            if not chunk:
                raise UserError(f"{file}: no {what}. Is it the right file, and whole?")
            text += chunk
        position = found.end()
        while True:
            match = _SPACE_OR_COMMA.match(text, position)
            position = match.end() if match else position
            if text[position : position + 1] == stop:
                return
            try:
                item, end = decode(text, position)
                # A number may go on in the next piece; something always follows an item.
                whole, problem = end < len(text), f"no `{stop}`"
            except json.JSONDecodeError as error:
                whole, problem = False, error.msg
            if whole:
                yield item
                position = end
                continue
            chunk = stream.read(_CHUNK)
            if not chunk:
                raise UserError(f"{file}: ends in the middle of the {what} ({problem}); copy it again.")
            text, position = text[position:] + chunk, 0
