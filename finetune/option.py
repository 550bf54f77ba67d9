"""Options: fields of a dataclass, declared with their limits in addition to their defaults.

Everything with settings (a metric, a task, the freeze policy, a job) is a dataclass whose fields are its
options. The string under a field is the option's only documentation, and `option` its only limit: `JOB
--help` prints both, and `config/values.py` checks every value before anything is read or written.
"""

import math
from dataclasses import Field, dataclass, field, fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Protocol, TypeVar, get_args, get_origin, runtime_checkable

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, which are included unless stated otherwise."""

    least: float = 0
    most: float = 1e9
    above_least: bool = False
    """Exclude `least`."""
    below_most: bool = False
    """Exclude `most`."""

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        low = value > self.least if self.above_least else value >= self.least
        return low and (value < self.most if self.below_most else value <= self.most)

    def __str__(self) -> str:
        least, most = _number(self.least), _number(self.most)
        if self.most == ANY_NUMBER.most:
            return f"more than {least}" if self.above_least else f"at least {least}"
        if not self.above_least and not self.below_most:
            return f"{least} to {most}"
        low = f"more than {least}" if self.above_least else f"{least} or more"
        return f"{low}, and {'less than' if self.below_most else 'at most'} {most}"


def _number(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


ANY_NUMBER = Range()
"""The range of a number that is declared without one: 0 or more."""
COUNT = Range(1)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, below_most=True)
RATE = Range(0, 1e3, above_least=True)


@dataclass(frozen=True)
class OneOf:
    """A choice of whole numbers."""

    values: tuple[int, ...]

    def __contains__(self, value: float) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.values))


MAY_BE_EMPTY = "may be empty"
"""Limit of a text that may be empty; texts without it may not."""

Limit = Range | OneOf | str


def option(default: T, limit: Limit) -> T:
    """Declare a field of an options class together with its limit.

    Args:
        default: the default value; a list is copied for each object.
        limit: range of a number, or of each number of a list; `MAY_BE_EMPTY` for a text.
    """
    metadata = {"limit": limit}
    declared: Any
    if isinstance(default, list):
        declared = field(default_factory=lambda: list(default), metadata=metadata)
    else:
        declared = field(default=default, metadata=metadata)
    return declared


def limit_of(declared: Field[Any]) -> Limit | None:
    """Return the declared limit of a field; None for any number from 0, or any text that is not empty."""
    limit: Limit | None = declared.metadata.get("limit")
    return limit


def describe_values(declared: Field[Any]) -> str:
    """Return which values a field accepts, such as `a whole number, 1 to 65536, or null`."""
    kinds = get_args(declared.type) if isinstance(declared.type, UnionType) else (declared.type,)
    text = " or ".join(_describe_kind(kind) for kind in kinds if kind is not NoneType)
    limit = limit_of(declared)
    if not {int, float}.isdisjoint(kinds) and not isinstance(limit, str):
        text += f", {limit or ANY_NUMBER}"
    return f"{text}, or null" if NoneType in kinds else text


def _describe_kind(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return f"one of {', '.join(kind)}"
    if is_dataclass(kind):
        return f"options in braces, whose keys are {', '.join(field.name for field in fields(kind))}"
    return KIND_NAMES[get_origin(kind) or kind]


KIND_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list, such as [a,b]",
    dict: "options in braces, {key: value}",
    Any: "any value",
}


@runtime_checkable
class Builder(Protocol):
    """Options that build a part instead of being the part.

    For a part that is slow to import, or has a method with the name of an option.
    """

    def build(self) -> object:
        """Return the part."""
