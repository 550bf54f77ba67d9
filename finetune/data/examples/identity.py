"""What a cached result depends on, as text: the parts of a run by their options and their code."""

import sys
from abc import ABC
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, ReprEnum, StrEnum
from functools import cache
from pathlib import Path
from types import FunctionType, MethodType
from typing import Generic, Protocol

from finetune.data.cache import digest_files

_PACKAGE = Path(__file__).resolve().parents[2]
_PLAIN = {type(None), bool, int, float, str, bytes}
_KNOWN: set[object] = {object, Protocol, Generic, ABC, Enum, ReprEnum, StrEnum, int, str}
"""Classes of Python that may be inherited from: they hide no state."""


class UnidentifiedError(Exception):
    """A part without an identity that another process could compare."""


def identify(part: object) -> str:
    """Return a text that is equal for equal parts and changes with their options and their code.

    Args:
        part: a plain value, a container, an object (its options count, and the source of its class), or a
            class, function or method of a module (name and source count).

    Raises:
        UnidentifiedError: the part, or something in it, is a lambda, is defined inside a function, or has
            state that cannot be read from here.
    """
    if isinstance(part, Enum):
        return f"{_identify_code(type(part))}.{part.name}"
    if type(part) in _PLAIN or isinstance(part, Path):
        return repr(part)
    if isinstance(part, list | tuple):
        return f"{type(part).__name__}({','.join(map(identify, part))})"
    if isinstance(part, Mapping):
        return f"{type(part).__name__}({','.join(f'{identify(k)}:{identify(v)}' for k, v in part.items())})"
    if isinstance(part, type | FunctionType):
        return _identify_code(part)
    if isinstance(part, MethodType):
        return f"{identify(part.__self__)}.{part.__name__}"
    name = _identify_code(type(part))
    if is_dataclass(part) and type(part).__module__.startswith(f"{_PACKAGE.name}."):
        # Not its attributes: what a `cached_property` has computed follows from the fields.
        return f"{name}{identify([getattr(part, field.name) for field in fields(part)])}"
    if not hasattr(part, "__dict__") or any(vars(base).get("__slots__") for base in type(part).__mro__):
        raise UnidentifiedError(f"a {type(part).__qualname__} does not show its state")
    return f"{name}{identify(vars(part))}"


def _identify_code(code: type | FunctionType) -> str:
    """Return name and source of a function, or of a class and those it inherits from, as digests."""
    sources = []
    for each in code.__mro__ if isinstance(code, type) else (code,):
        if each in _KNOWN:
            continue
        module = sys.modules.get(each.__module__)
        if getattr(each, "__closure__", None):
            raise UnidentifiedError(f"{each.__qualname__} has values of the function that defines it")
        if "<" in each.__qualname__ or module is None or each.__module__ == "__main__":
            raise UnidentifiedError(f"{each.__qualname__} is not defined at the top of a module")
        if each.__module__.partition(".")[0] != _PACKAGE.name:
            # It may read files, and import helpers from anywhere, which nobody can compare.
            raise UnidentifiedError(f"{each.__module__}.{each.__qualname__} is custom code")
        sources.append(f"{each.__module__}.{each.__qualname__}")
    return f"<{' '.join(sources)} {digest_code()}>"


@cache
def digest_code() -> str:
    """Return a digest of the code of this package."""
    return digest_files(_PACKAGE.rglob("*.py"))
