"""What is wrong in the data: an error at once, or with `on_error=skip` a line in a list."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from finetune.data.images import ImageError
from finetune.data.reading.record import Record
from finetune.errors import UserError

_REMEDY = " Or leave out what is wrong: dataset.on_error=skip."

_LONGEST = 1000
"""Characters of a message, for the values that it quotes may be of any length."""


class UnusableError(Exception):
    """What is wrong with the record that is being read; the block of `Faults` adds where it is."""


class Faults:
    """Collects what a reader leaves out.

    A reader puts each row, and each object of a row, that may be refused into its own block::

        for line in lines:
            with faults.skipping():
                yield convert(line)  # raises where it cannot be used

    Whatever is raised inside is a fault of the data: a reader need not foresee every wrong type.

    Args:
        skip: go on behind a fault, instead of raising it.
        origin: file or folder that is read, for errors that know no place.
    """

    def __init__(self, skip: bool, origin: str = "") -> None:
        self.skip = skip
        self.origin = origin
        self.found: list[str] = []
        self.images: list[str] = []
        """Paths of the images that were refused."""

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Leave the block at a fault and list it.

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
            elif fault.endswith(_REMEDY):  # a block inside this one has said so
                raise
            else:
                raise UserError(f"{fault}{_REMEDY}") from error


@contextmanager
def reading(origin: str) -> Iterator[None]:
    """Report whatever goes wrong with a file as a whole.

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
    """Return a message with the place, whatever was raised.

    Args:
        error: what was raised; a `UserError` names its place itself.
        origin: file or folder, where no record is being read.
    """
    text = str(error)
    if not isinstance(error, UserError):
        place = _find_place(error.__traceback__) or origin or "The data"
        text = f"{place}: {_describe(error)}"
    # What is no text (half of a surrogate pair) cannot be printed or written.
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
    """Return the place of the innermost record that was being read when something was raised.

    Readers hold it as a `Record` or in a variable `where`; asking for it here spares each of them a
    handler for what it does not expect.
    """
    place = ""
    while traceback is not None:
        values = traceback.tb_frame.f_locals
        named = [str(values["where"])] if isinstance(values.get("where"), str) else []
        named += [value.where for value in values.values() if isinstance(value, Record)]
        place = max(named, key=len, default=place)
        traceback = traceback.tb_next
    return place
