"""JSON piece by piece: a reader that holds one value of a file at a time."""

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from finetune.errors import UserError
from finetune.strict_json import JsonError, StrictDecoder

_CHUNK = 1 << 20
_LONGEST_LITERAL = 16
"""Maximum length of a literal or an escape, which the end of a piece may cut."""

_SPACE = re.compile(r"[ \t\r\n]*")

T = TypeVar("T")


class Item(NamedTuple):
    """A value that was read from a file."""

    value: object
    flaws: list[str]
    """What is wrong with it although it can be read."""


def explain_error(error: Exception) -> str:
    """Return the meaning of an error of the decoder, and a remedy."""
    if isinstance(error, JsonError):
        return str(error)
    if isinstance(error, RecursionError):
        return "nested too deeply to be read."
    if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
        return f"there is text after its end ({error}): are two files in one?"
    return f"not whole JSON ({error}). Correct it, or copy the file again."


@dataclass
class JsonStream:
    """Reads one JSON file from its beginning to its end, with only the current value in memory."""

    stream: io.TextIOBase
    file: Path
    """Its name, for error messages."""
    what: str
    """The part that is read, for error messages."""

    def __post_init__(self) -> None:
        self.decoder = StrictDecoder()
        self.text = ""
        self.position = 0
        self.lines = 1
        self.ended = False

    def array(self, read: Callable[[], T]) -> Iterator[T]:
        """Yield the result of `read` at each item."""
        return self._items("[", read, "]")

    def object(self) -> Iterator[str]:
        """Yield each key; the caller reads or skips its value before the next one."""
        return self._items("{", self._key, "}")

    def _items(self, opening: str, read: Callable[[], T], closing: str) -> Iterator[T]:
        self._take(opening)
        if self.peek() == closing:
            self._take(closing)
            return
        while True:
            yield read()
            if self._take(f",{closing}") == closing:
                return

    def _key(self) -> str:
        if self.peek() != '"':
            self._fail("expected a key in double quotes")
        key = str(self.value().value)
        self._take(":")
        return key

    def skip(self) -> None:
        """Skip a value."""
        start = self.peek()
        if start == "[":
            for _ in self.array(self.value):
                pass
        elif start == "{":
            for _ in self.object():
                self.value()
        else:
            self.value()

    def value(self) -> Item:
        """Return the next value."""
        self.peek()
        while True:
            self.decoder.flaws = []
            try:
                value, end = self.decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                # At the end of a piece a value may just be cut; an error earlier in the text is a real one.
                last = len(self.text.rstrip()) if self.ended else len(self.text) - _LONGEST_LITERAL
                cut = error.msg.startswith("Unterminated") or error.pos >= last
                if self.ended or not cut:
                    self._fail(error.msg, cut)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{self._where()}: {explain_error(error)}") from error
            else:
                # A number may continue in the next piece.
                if end < len(self.text) or self.ended:
                    self.position = end
                    return Item(value, self.decoder.flaws)
            self._fill()

    def peek(self) -> str:
        """Return the next character that is not white space; an empty text at the end of the file."""
        while True:
            space = _SPACE.match(self.text, self.position)
            self.position = space.end() if space else self.position
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self._fill()

    def end(self) -> None:
        """Check that the file has no more text."""
        if self.peek():
            self._fail("there is text after its end: are two files in one?")

    def _take(self, allowed: str) -> str:
        character = self.peek()
        if not character or character not in allowed:
            self._fail(f"expected `{'` or `'.join(allowed)}`", cut=not character)
        self.position += 1
        return character

    def _fill(self) -> None:
        # Doubled for a large value, so that copying it costs no more than reading it.
        chunk = self.stream.read(max(_CHUNK, len(self.text) - self.position))
        self.ended = not chunk
        if "\0" in chunk:
            raise UserError(f"{self.file}: not UTF-8: it has NUL characters. Save it as UTF-8.")
        self.lines += self.text.count("\n", 0, self.position)
        self.text, self.position = self.text[self.position :] + chunk, 0

    def _where(self) -> str:
        return f"{self.file} line {self.lines + self.text.count(chr(10), 0, self.position)}"

    def _fail(self, problem: str, cut: bool = False) -> NoReturn:
        if cut:
            raise UserError(
                f"{self.file}: ends in the middle of the {self.what} ({problem}); copy it again."
            )
        shown = repr(self.text[self.position : self.position + 30])
        raise UserError(f"{self._where()}: not whole JSON at {shown} ({problem}). Correct the file.")
