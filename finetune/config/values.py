"""Numbers out of their range and texts that are empty, by the limits that options are declared with."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from finetune.config.choices import GROUP_SCHEMAS
from finetune.option import ANY_NUMBER, MAY_BE_EMPTY, Limit, OneOf, limit_of


def check_values(options: Any, prefix: str = "") -> Iterator[str]:
    """Yield a message for each number out of its range and each empty text, of every group.

    Args:
        options: a dataclass of the schema, filled; the options of a user's own part are not ours to know.
        prefix: its key, with a dot behind it.
    """
    for field in fields(options):
        value, key = getattr(options, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from check_values(value, f"{key}.")
        else:
            yield from check_value(key, value, limit_of(field))


def check_value(key: str, value: Any, limit: Limit | None = None) -> Iterator[str]:
    """Yield a message where a number is out of its range or a text is empty, also inside a list."""
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


@cache
def schema_of(target: str) -> type | None:
    """Return the dataclass of a shipped choice, by what its `_target_` names."""
    for schemas in GROUP_SCHEMAS.values():
        for schema in schemas.values():
            if vars(schema).get("_target_") == target:
                return schema
    return None
