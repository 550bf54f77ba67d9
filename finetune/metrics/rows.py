"""Prediction rows on disk, read one at a time: their number does not matter to memory."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from finetune.errors import UserError

Row = dict[str, Any]


class JsonlRows(Sequence[Row]):
    """The rows of a JSONL file, as a sequence that keeps eight bytes for each.

    Args:
        file: one JSON object a line; blank lines are left out.

    Raises:
        UserError: there is no such file, or no row in it.
    """

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise UserError(f"No file {file}.")
        self.file = file
        self._starts = array("q")
        self._stream = file.open("rb")
        position = 0
        for line in self._stream:
            if line.strip():
                self._starts.append(position)
            position += len(line)
        if not self._starts:
            self._stream.close()
            raise UserError(f"{file} is empty: expected one JSON object a line.")

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "Selection": ...

    def __getitem__(self, index: int | slice) -> "Row | Selection":
        """Read one row.

        Raises:
            UserError: the line is no JSON object; the message counts the rows from 1.
        """
        if isinstance(index, slice):
            return Selection(self, range(len(self))[index])
        self._stream.seek(self._starts[index])
        where = f"{self.file} row {index % len(self) + 1}"
        try:
            row = json.loads(self._stream.readline())
        except ValueError as error:
            raise UserError(f"{where}: not a whole JSON object ({error}).") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected a JSON object, got {type(row).__name__}.")
        return row

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


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
