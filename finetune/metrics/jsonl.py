"""Prediction rows on disk, read one at a time: their number does not matter to memory."""

import json
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

from finetune.errors import UserError, describe

Row = dict[str, object]

MOST_LINE = 32 << 20
"""Bytes of one row; a line that is longer is not read into memory."""

_EXPECTED = "Expected JSON lines: one JSON object a line, with the keys of a prediction row"


class FileRow(dict[str, object]):
    """A row that knows where it comes from, for messages."""

    __slots__ = ("index", "rows")

    rows: "JsonlRows"
    index: int

    @property
    def place(self) -> str:
        """File and line."""
        return self.rows.name_place(self.index)


class JsonlRows(Sequence[Row]):
    """The rows of a JSONL file, as a sequence that keeps eight bytes for each.

    Args:
        file: one JSON object a line; blank lines are left out.
        name: what messages call the file; None: its path.
        unit: what messages call a row's place, followed by its number.

    Raises:
        UserError: there is no such file, no row in it, or a line is too long to be one row.
    """

    def __init__(self, file: Path, name: str | None = None, unit: str = "line") -> None:
        self.name = str(file) if name is None else name
        self.unit = unit
        self._starts = array("q")
        # For each blank line the number of rows before it: from these follow the rows' line numbers.
        self._blanks = array("q")
        self._stream = _open(file, self.name)
        try:
            self._scan()
        except BaseException:
            self._stream.close()
            raise

    def _scan(self) -> None:
        position = 0
        while line := self._stream.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                self._starts.append(position)
                place = self.name_place(len(self) - 1)
                raise UserError(f"{place} is longer than {MOST_LINE >> 20} MiB. {_EXPECTED}.")
            if line.isspace():
                self._blanks.append(len(self._starts))
            else:
                self._starts.append(position)
            position += len(line)
        if not self._starts:
            raise UserError(f"{self.name} is empty. {_EXPECTED}.")

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "Selection": ...

    def __getitem__(self, index: int | slice) -> "Row | Selection":
        """Read one row.

        Raises:
            UserError: the line is not a JSON object; the message names it.
        """
        if isinstance(index, slice):
            return Selection(self, range(len(self))[index])
        self._stream.seek(self._starts[index])
        index %= len(self)
        try:
            text = self._stream.readline().decode("utf-8").removeprefix("\ufeff")
            value = json.loads(text)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.name_place(index)} is not UTF-8 ({error.reason}). Save the file as UTF-8."
            ) from error
        except ValueError as error:
            raise UserError(
                f"{self.name_place(index)}: not a whole JSON object ({error}).{self._explain(text)}"
            ) from error
        except RecursionError:
            raise UserError(f"{self.name_place(index)} is nested too deeply. {_EXPECTED}.") from None
        if not isinstance(value, dict):
            raise UserError(
                f"{self.name_place(index)}: expected a JSON object, got {type(value).__name__}."
                f"{self._explain(text)}"
            )
        row = FileRow(value)
        row.rows, row.index = self, index
        return row

    def name_place(self, index: int) -> str:
        """Return file and line of a row, counted from 1."""
        return f"{self.name} {self.unit} {index + 1 + bisect_right(self._blanks, index)}"

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _explain(self, line: str) -> str:
        """Return what kind of JSON file the row's line hints at, as the end of a message."""
        if line.strip() in {"{", "}", "},"} or (line.strip()[:1] == '"' and len(self) > 1):
            return f" This looks like one JSON document over many lines. {_EXPECTED}."
        return ""


class Selection(Sequence[Any]):
    """Some rows of a sequence, by their indices, without reading them.

    Args:
        rows: the sequence.
        indices: which of them, in the order wanted.
    """

    def __init__(self, rows: Sequence[Any], indices: Sequence[int]) -> None:
        self.rows = rows
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Selection(self.rows, self.indices[index])
        return self.rows[self.indices[index]]


def _open(file: Path, name: str) -> BinaryIO:
    """Open a file that can be read twice.

    Raises:
        UserError: there is none, or it is of another kind; a pipe is not opened, which would wait.
    """
    try:
        if not file.exists():
            raise UserError(f"No file {name}.")
        if file.is_dir():
            raise UserError(f"{name} is a folder. Name the file in it: predictions=FOLDER/FILE.jsonl.")
        if not file.is_file():
            raise UserError(f"{name} is not a file; predictions=- reads a pipe.")
        return file.open("rb")
    except OSError as error:
        raise UserError(f"Cannot read {describe(name)}: {error.strerror}.") from error
