"""Faults in the data: an error at once, or with `on_error=skip` an item of a list."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from finetune.data.images import ImageError
from finetune.data.reading.record import Record
from finetune.errors import UserError

_REMEDY = " Or leave out what is wrong: dataset.on_error=skip."

_LONGEST = 1000
"""Maximum length of a message: the values that it quotes may be of any length."""


class UnusableError(Exception):
    """What is wrong with the record that is being read; the block of `Faults` adds the place."""


@dataclass
class Faults:
    """Collects the rows and objects that a reader leaves out.

    A reader reads each row, and each object of a row, in a block::

        for line in lines:
            with faults.skipping():
                yield convert(line)  # raises if it cannot be used

    Any exception inside the block is a fault of the data: readers need not foresee every wrong type.
    """

    skip: bool
    """Continue after a fault, instead of raising it."""
    origin: str = ""
    """File or folder that is read, for errors without a place."""
    found: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    """Paths of the refused images."""
    noted: dict[str, tuple[str, int]] = field(default_factory=dict)
    """What was changed or ignored -> the first place, and how often."""

    def leave_out(self, reason: str) -> None:
        """Add to the list what is left out although it is not a fault, such as a row without an image.

        Args:
            reason: names the place.
        """
        self.found.append(reason)

    def note(self, what: str, where: str) -> None:
        """Count something that is used in another form than it has in the file.

        Args:
            what: the kind of change, in the plural.
            where: file and place.
        """
        first, count = self.noted.get(what, (where, 0))
        self.noted[what] = (first, count + 1)

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Leave the block at a fault and add it to the list.

        Raises:
            UserError: names the place, unless faults are skipped.
        """
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            fault = describe_fault(error, self.origin)
            if self.skip:
                self.found.append(fault)
                if isinstance(error, ImageError) and error.path is not None:
                    self.images.append(error.path)
            elif fault.endswith(_REMEDY):  # raised by a nested block
                raise
            else:
                raise UserError(f"{fault}{_REMEDY}") from error


@contextmanager
def reading(origin: str) -> Iterator[None]:
    """Report any error with a file as a whole.

    Args:
        origin: the file or folder.

    Raises:
        UserError: names it.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        message = describe_fault(error, origin)
        if message == str(error):
            raise
        raise UserError(message) from error


def describe_fault(error: Exception, origin: str) -> str:
    """Return a message with the place for any exception.

    Args:
        error: the exception; a `UserError` names its place itself.
        origin: file or folder, if no record is being read.
    """
    text = str(error)
    if not isinstance(error, UserError):
        place = _find_place(error.__traceback__) or origin or "The data"
        text = f"{place}: {_describe(error)}"
    # Half of a surrogate pair is not a character, and cannot be printed or written.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 300]} ... {text[-200:]}"


def _describe(error: Exception) -> str:
    if isinstance(error, UnusableError):
        return str(error)
    if isinstance(error, KeyError):
        return f"no `{error.args[0] if error.args else ''}`."
    if isinstance(error, UnicodeEncodeError):
        broken = error.object[error.start : error.end]
        return f"a text contains {broken!r}, half of a surrogate pair, which is not a character."
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte 0x{error.object[error.start]:02x}). Save the file as UTF-8."
    if isinstance(error, RecursionError):
        return "nested too deeply to be read."
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}{f': {error.filename}' if error.filename else ''})."
    kind, reason = type(error).__name__, str(error).strip().splitlines() or [""]
    return f"a value is not of the expected type or size ({kind}: {reason[0][:300].rstrip('.')})."


def _find_place(traceback: TracebackType | None) -> str:
    """Return the place of the innermost record that was being read when an exception was raised.

    Readers have it in a `Record` or in a variable `where`; looking for these in the frames of the traceback
    saves a handler for unexpected exceptions in each of them.
    """
    place = ""
    while traceback is not None:
        values = traceback.tb_frame.f_locals
        named = [str(values["where"])] if isinstance(values.get("where"), str) else []
        named += [value.where for value in values.values() if isinstance(value, Record)]
        place = max(named, key=len, default=place)
        traceback = traceback.tb_next
    return place
