"""Checks numbers and texts against the limits that options are declared with."""

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from finetune.option import ANY_NUMBER, MAY_BE_EMPTY, Limit, OneOf, limit_of

_LONGEST_NAME = 255
"""Bytes of a file name that every file system accepts."""


@runtime_checkable
class Contradictable(Protocol):
    """An options class that checks its options against each other."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield a message for each contradiction.

        Args:
            prefix: key of the options, with a dot after it.
        """


def check_values(options: Any, prefix: str = "") -> Iterator[str]:
    """Yield a message for each number out of its range, each empty text and each contradiction.

    Args:
        options: a dataclass of the schema with its values; the options of custom parts are not checked.
        prefix: its key, with a dot after it.
    """
    for field in fields(options):
        value, key = getattr(options, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from check_values(value, f"{key}.")
        elif isinstance(value, dict) and any(map(is_dataclass, value.values())):
            for name, part in value.items():
                yield from check_values(part, f"{key}.{name}.")
        else:
            yield from check_value(key, value, limit_of(field))
    if isinstance(options, Contradictable):
        yield from options.problems(prefix)


def check_value(key: str, value: Any, limit: Limit | None = None) -> Iterator[str]:
    """Yield a message for a number out of its range or an empty text, also inside a list."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield from _check_number(key, value, limit)
    elif isinstance(value, str) and value == "" and limit != MAY_BE_EMPTY:
        yield f"{key} is empty. Expected a text."
    elif isinstance(value, list):
        if "" in value:
            yield f"{key} holds an empty text: leave it out."
        if any(isinstance(item, list | dict) for item in value):
            yield f"{key}={value}: expected a list without lists in it."
            return
        for item in value:
            yield from check_value(key, None if item == "" else item, limit)


def _check_number(key: str, value: float, limit: Limit | None) -> Iterator[str]:
    if isinstance(limit, OneOf):
        if value not in limit:
            *first, last = map(str, limit.values)
            yield f"{key}={value}: expected {', '.join(first)} or {last}."
    elif value not in (bounds := ANY_NUMBER if limit is None or isinstance(limit, str) else limit):
        yield f"{key}={str(value)[:40]}: expected {bounds}."


def name_problems(name: str) -> Iterator[str]:
    """Yield why a run's folder below `runs_dir` cannot have a name."""
    segments, problem = name.split("/"), None
    if not name.strip():
        problem = "expected a name that is not empty."
    elif any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
        problem = "expected a name without control characters."
    elif name.startswith("/") or Path(name).is_absolute():
        problem = "expected a name below runs_dir, not an absolute path: runs_dir=FOLDER run_name=NAME."
    elif any(segment in {"", ".", ".."} for segment in segments):
        problem = "expected a name below runs_dir, without empty, `.` or `..` parts."
    elif any(len(os.fsencode(segment)) > _LONGEST_NAME for segment in segments):
        problem = f"too long: a file system accepts names of at most {_LONGEST_NAME} bytes."
    if problem is not None:
        yield f"run_name={name[:80]!r}: {problem}"
