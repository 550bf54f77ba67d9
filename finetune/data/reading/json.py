"""Read JSON files, whole or item by item, and take values of the expected kind out of them."""

import io
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from finetune.data.reading.json_stream import JsonStream, StrictDecoder, explain_error
from finetune.errors import UserError

if TYPE_CHECKING:  # it asks records for their places
    from finetune.data.reading.faults import Faults

_MOST_KEYS = 40
"""Of an object's keys that a message lists."""


class Record(dict[str, Any]):
    """A JSON object that knows its place: asking for a key that it lacks is a `UserError`.

    The methods also check the value: one of another kind is a `UserError` with file, item and key.

    Args:
        values: what was read.
        where: file and place, for error messages.

    Raises:
        UserError: it is not an object.
    """

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected a JSON object, got {type(values).__name__}.")
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str) -> NoReturn:
        known = [str(name) if str(name).isprintable() else repr(name) for name in islice(self, _MOST_KEYS)]
        more = [f"and {len(self) - _MOST_KEYS} more"] if len(self) > _MOST_KEYS else []
        raise UserError(f"{self.where}: no `{key}`; the keys are: {', '.join(known + more) or 'none'}.")

    def text(self, key: str) -> str:
        """Return a text that is not blank."""
        return self._check(key, self[key], is_text, "a text")

    def optional_text(self, key: str) -> str | None:
        """Return a text; None where it is missing, null or blank."""
        value = self.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return self.text(key)

    def texts(self, key: str) -> list[str]:
        """Return a list of one or more texts, none of them blank."""
        return self._check_items(key, is_text, "a text")

    def identifier(self, key: str) -> str:
        """Return an id, which may be a whole number or a text, as a text."""
        return str(self._check(key, self[key], _is_identifier, "a whole number or a text"))

    def identifiers(self, key: str) -> list[str]:
        """Return a list of one or more ids as texts."""
        return [str(value) for value in self._check_items(key, _is_identifier, "a whole number or a text")]

    def integer(self, key: str, within: range | None = None) -> int:
        """Return a whole number.

        Args:
            key: its key.
            within: the numbers that are allowed; None: any.
        """
        what = "a whole number" + (f" from {within.start} to {within.stop - 1}" if within else "")
        return self._check(
            key, self[key], lambda value: _is_integer(value) and (within is None or value in within), what
        )

    def number(self, key: str) -> float:
        """Return a finite number."""
        return float(self._check(key, self[key], _is_number, "a number"))

    def numbers(self, key: str) -> list[float]:
        """Return a list of one or more finite numbers."""
        return [float(value) for value in self._check_items(key, _is_number, "a number")]

    def boolean(self, key: str) -> bool:
        """Return true or false."""
        return self._check(key, self[key], lambda value: isinstance(value, bool), "true or false")

    def record(self, key: str) -> "Record":
        """Return the object under a key."""
        return Record(self[key], f"{self.where}: `{key}`")

    def records(self, key: str) -> "list[Record]":
        """Return a list of one or more objects."""
        return [
            Record(value, f"{self.where}: `{key}` item {number}")
            for number, value in enumerate(self._check_items(key, None, "an object"), 1)
        ]

    def array(self, key: str) -> list[Any]:
        """Return a list, which may be empty, of anything."""
        return self._check(key, self[key], lambda value: isinstance(value, list), "a list")

    def _check_items(self, key: str, fits: Callable[[Any], bool] | None, what: str) -> list[Any]:
        values = self._check(
            key, self[key], lambda value: isinstance(value, list) and bool(value), "a list"
        )
        for number, value in enumerate(values, 1):
            self._check(f"{key}` item `{number}", value, fits, what)
        return values

    def _check(self, key: str, value: Any, fits: Callable[[Any], bool] | None, what: str) -> Any:
        if fits is not None and not fits(value):
            raise UserError(f"{self.where}: `{key}`: expected {what}, got {describe_value(value)}.")
        return value


def is_text(value: Any) -> bool:
    """Return whether a value is a text that is not blank, and that can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_identifier(value: Any) -> bool:
    return _is_integer(value) or is_text(value)


def describe_value(value: Any) -> str:
    """Return a value in few words, for error messages; control characters are escaped."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:60]}...")
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    if _is_integer(value):
        return str(value) if abs(value) < 10**40 else "a number of more than 40 digits"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return type(value).__name__


@contextmanager
def open_text(file: Path) -> Iterator[io.TextIOBase]:
    """Open a text in UTF-8, a byte order mark left out.

    Raises:
        UserError: there is no such file, it is a folder or a pipe, or it cannot be read.
    """
    try:
        check_file(file)
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}).") from error


def check_file(file: Path) -> None:
    """Refuse what cannot be read as a file: opening a pipe would wait for ever.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"No file {file}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"No file {file} ({error}).") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"{file}: expected a file, got {kind}.")


def read_json(file: Path) -> Any:
    """Return the whole content of a file that fits in memory.

    Raises:
        UserError: there is no such file, or it is not whole JSON.
    """
    with open_text(file) as stream:
        text = stream.read()
    return parse_json(text, str(file))


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what a text says in JSON.

    Args:
        text: one value, and nothing after it.
        where: file and place, for error messages.

    Raises:
        UserError: it is not whole JSON, has one key twice in an object or a number of thousands of digits,
            or is nested too deep.
    """
    decoder = StrictDecoder()
    try:
        value = decoder.decode(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error}). Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {explain_error(error)}") from error
    if decoder.flaws:
        raise UserError(f"{where}: {decoder.flaws[0]}")
    return value


def iterate_records(faults: "Faults", file: Path, key: str | None = None) -> Iterator[tuple[int, Record]]:
    """Yield numbers, from 1, and objects of an array as `iterate_json_array` finds it.

    An item that is not an object, or has one of the flaws that `parse_json` names, is a fault.

    Raises:
        UserError: as there.
    """
    for number, (item, flaws) in enumerate(_iterate_array(file, key), 1):
        where = f"{file} item {number}"
        with faults.skipping():
            _raise_first(flaws, where)
            yield number, Record(item, where)


def iterate_json_array(file: Path, key: str | None = None) -> Iterator[Any]:
    """Yield the items of `{"...": ..., key: [item, item, ...]}`.

    Args:
        file: the JSON file.
        key: name of the array in the object at the top; None: the file is the array.

    Raises:
        UserError: there is no such file or array, or the file is not whole JSON.
    """
    for number, (item, flaws) in enumerate(_iterate_array(file, key), 1):
        _raise_first(flaws, f"{file} item {number}")
        yield item


def iterate_json_object(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield keys and values of `{key: value, key: value, ...}`; a key may come again.

    Raises:
        UserError: there is no such file or object, or the file is not whole JSON.
    """
    with _open_json(file, "{", "object at its top") as reader:
        for key in reader.object():
            value, flaws = reader.value()
            _raise_first(flaws, f"{file}: `{key}`")
            yield key, value
        reader.end()


def read_member(file: Path, key: str) -> Any:
    """Return one value of the object at the top of a file that need not fit in memory; None without it.

    Raises:
        UserError: there is no such file or object, or the file is not whole JSON.
    """
    with _open_json(file, "{", "object at its top") as reader:
        for found in reader.object():
            if found == key:
                return reader.value()[0]
            reader.skip()
    return None


def _missing(file: Path, name: str) -> str:
    return f"{file}: no {name}. Is it the right file, and whole?"


@contextmanager
def _open_json(file: Path, opening: str, name: str) -> Iterator[JsonStream]:
    """Open a JSON file whose first character is known.

    Args:
        file: the JSON file.
        opening: `{` or `[`.
        name: what messages call what is looked for in it.

    Raises:
        UserError: there is no such file, or it begins with another character.
    """
    with open_text(file) as stream:
        reader = JsonStream(stream, file, name)
        if reader.peek() != opening:
            raise UserError(_missing(file, name))
        yield reader


def _raise_first(flaws: list[str], where: str) -> None:
    if flaws:
        raise UserError(f"{where}: {flaws[0]}")


def _iterate_array(file: Path, key: str | None) -> Iterator[tuple[Any, list[str]]]:
    """Yield the items of an array, and what is wrong with each."""
    name = "array at its top" if key is None else f"array `{key}`"
    with _open_json(file, "[" if key is None else "{", name) as reader:
        if key is None:
            yield from reader.array(reader.value)
        else:
            times = 0
            for found in reader.object():
                if found != key:
                    reader.skip()
                    continue
                times += 1
                if times > 1:
                    raise UserError(f"{file}: the key `{key}` is at its top twice. Remove one of them.")
                if reader.peek() != "[":
                    value = describe_value(reader.value()[0])
                    raise UserError(f"{file}: `{key}`: expected a list, got {value}.")
                yield from reader.array(reader.value)
            if not times:
                raise UserError(_missing(file, name))
        reader.end()
