"""A JSON object that knows its place, and takes values of the expected kind out of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NoReturn, TypeGuard, TypeVar

from finetune.errors import UserError

_MOST_KEYS = 40
"""Number of an object's keys that a message lists."""

T = TypeVar("T")


class Record(dict[str, object]):
    """A JSON object that knows its place: reading a key that it lacks is a `UserError`.

    The methods also check the value: one of another kind is a `UserError` with file, item and key.

    Args:
        values: what was read.
        where: file and place, for error messages.

    Raises:
        UserError: it is not an object.
    """

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected a JSON object, got {type(values).__name__}.")
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str) -> NoReturn:
        known = [str(name) if str(name).isprintable() else repr(name) for name in islice(self, _MOST_KEYS)]
        more = [f"and {len(self) - _MOST_KEYS} more"] if len(self) > _MOST_KEYS else []
        raise UserError(f"{self.where}: no `{key}`; the keys are: {', '.join(known + more) or 'none'}.")

    def renamed(self, keys: Mapping[str, str]) -> "Record":
        """Return the object with some values under other keys too.

        Args:
            keys: the new key -> the present one.

        Raises:
            UserError: a key is missing.
        """
        return Record({**self, **{new: self[key] for new, key in keys.items()}}, self.where)

    def text(self, key: str) -> str:
        """Return a text that is not blank."""
        return self._check(key, self[key], is_text, "a text")

    def choice(self, key: str, known: Sequence[str]) -> str:
        """Return one of some known texts."""
        text = self.text(key)
        if text not in known:
            self._fail(key, text, f"one of {', '.join(known)}")
        return text

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
        number = self._check(key, self[key], is_integer, what)
        if within is not None and number not in within:
            self._fail(key, number, what)
        return number

    def number(self, key: str) -> float:
        """Return a finite number."""
        return float(self._check(key, self[key], is_number, "a number"))

    def numbers(self, key: str) -> list[float]:
        """Return a list of one or more finite numbers."""
        return [float(value) for value in self._check_items(key, is_number, "a number")]

    def boolean(self, key: str) -> bool:
        """Return true or false."""
        return self._check(key, self[key], _is_boolean, "true or false")

    def record(self, key: str) -> "Record":
        """Return the object under a key."""
        return Record(self[key], f"{self.where}: `{key}`")

    def records(self, key: str) -> "list[Record]":
        """Return a list of one or more objects."""
        values = enumerate(self._filled(key), 1)
        return [Record(value, f"{self.where}: `{key}` item {number}") for number, value in values]

    def array(self, key: str) -> list[object]:
        """Return a list, which may be empty, of anything."""
        return self._check(key, self[key], is_list, "a list")

    def _check_items(self, key: str, fits: Callable[[object], TypeGuard[T]], what: str) -> list[T]:
        values = enumerate(self._filled(key), 1)
        return [self._check(f"{key}` item `{number}", value, fits, what) for number, value in values]

    def _filled(self, key: str) -> list[object]:
        return self.array(key) or self._fail(key, [], "a list")

    def _check(self, key: str, value: object, fits: Callable[[object], TypeGuard[T]], what: str) -> T:
        if not fits(value):
            self._fail(key, value, what)
        return value

    def _fail(self, key: str, value: object, what: str) -> NoReturn:
        raise UserError(f"{self.where}: `{key}`: expected {what}, got {describe_value(value)}.")


def is_text(value: object) -> TypeGuard[str]:
    """Return whether a value is a text that is not blank, and that can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Return whether a value is a list."""
    return isinstance(value, list)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a finite number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_boolean(value: object) -> TypeGuard[bool]:
    return isinstance(value, bool)


def _is_identifier(value: object) -> TypeGuard[int | str]:
    return is_integer(value) or is_text(value)


def describe_value(value: object) -> str:
    """Return a value in few words, for error messages; control characters are escaped."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:60]}...")
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else "a number of more than 40 digits"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return type(value).__name__
