"""The error that is shown without a traceback, and printing text from data safely."""

import io
import json
import os
import re
import sys
import traceback
import warnings
from reprlib import Repr
from types import TracebackType
from typing import Any

_WORKER_PREFIX = "Caught UserError in"

# A terminal obeys C0, DEL and C1; bidirectional marks and isolates change the order of what is read, and
# zero-width characters hide. Joiners (U+200C, U+200D) stay: Persian and emoji are written with them.
# Lone surrogates cannot be written as UTF-8.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)

_SHORT = 80


class UserError(Exception):
    """A mistake that the user can correct: the message says what, where and how.

    The command line prints the message alone and exits with 2; `FINETUNE_DEBUG=1` adds the traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker re-raises with its traceback in the message; only the last line is ours.
        if message.startswith(_WORKER_PREFIX):
            message = message.rpartition("UserError: ")[2].strip()
        super().__init__(message)


def is_debugged() -> bool:
    """Whether the environment asks for tracebacks, and for failures to end a run where they happen."""
    return os.environ.get("FINETUNE_DEBUG") == "1"


def suggest(name: str, known: list[str], most: int = 1) -> str:
    """Return `" Did you mean `x`?"` for the nearest known names, or an empty string."""
    from difflib import get_close_matches

    near = [f"`{match}`" for match in get_close_matches(name, known, n=most, cutoff=0.5)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def describe(value: object) -> str:
    """Return a value of any kind and size in at most 80 characters, for a message; `nothing` for None."""
    if value is None:
        return "nothing"
    text = _REPR.repr(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


def printable(text: str) -> str:
    r"""Escape characters that a terminal would obey, hide or reorder, such as `\x1b`.

    Line breaks and tabs stay.
    """
    return _UNPRINTABLE.sub(_escape, text)


def print_json(value: Any) -> None:
    r"""Print a value as one line of JSON, safe on any terminal and in any encoding.

    Characters that `printable` escapes or standard output cannot encode become JSON escapes, such as
    `\u001b`, so that the value is read back unchanged.
    """
    utf = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not utf)
    print(_UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text), flush=True)


def guard_terminal() -> None:
    """Escape what other code prints: characters without an encoding, warnings and tracebacks from data."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _format_warning
    sys.excepthook = _print_traceback


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return printable(_format_warning_plainly(message, category, filename, lineno, line))


_format_warning_plainly = warnings.formatwarning


def _print_traceback(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    print(printable("".join(traceback.format_exception(kind, error, where))), end="", file=sys.stderr)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


# `repr` is unbounded, and fails on values that are nested deeper than the stack.
_REPR = Repr()
_REPR.maxlevel = 4
_REPR.maxstring = _REPR.maxother = _SHORT
