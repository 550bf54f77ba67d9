"""The answers of `predict` in a folder of the user's, written one by one, so that it can go on later.

Only files that an earlier `predict` wrote are ever replaced: `predict.json` says that the folder is one of
its folders, and each row names its drawing.
"""

import errno
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from finetune.errors import UserError, describe
from finetune.example import PredictionRow
from finetune.run.files import explain_disk_errors, read_json, write_json, write_jsonl
from finetune.strict_json import parse_json

Key = tuple[str, str]
"""Name of the image, and prompt."""

_IN_USE = {errno.EACCES, errno.EAGAIN}


class AnswerFolder:
    """Answers by image and prompt.

    Args:
        root: the folder; it need not exist.
        settings: what the answers depend on, besides image and prompt: JSON values.
        overwrite: forget the answers that are there.

    Attributes:
        rows: the answers that are there already.
        replaced: drawings of answers that are forgotten, which `open` deletes.

    Raises:
        UserError: the folder is a file, or has other files or the answers of another command.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.root = root
        self.rows: dict[Key, PredictionRow] = {}
        self.replaced: set[Path] = set()
        self.left_out = root / "left_out.jsonl"
        self._marker, self._file = root / "predict.json", root / "predictions.jsonl"
        self._settings = dict(settings)
        self._whole = 0
        taken = next((path for path in (root, *root.parents) if path.exists() and not path.is_dir()), None)
        if taken is not None:
            raise UserError(f"out={root}: {taken} is a file. Expected a folder for answers and drawings.")
        if not self._marker.is_file():
            for file in (self._file, self.left_out):
                if file.exists() and file.stat().st_size:
                    raise UserError(
                        f"out={root}: {file} is there, and `predict` did not write it. Choose another "
                        "folder."
                    )
            return
        if not overwrite:
            self._check_settings()
        self._read()
        if overwrite:
            names = {row["drawing"] for row in self.rows.values() if "drawing" in row}
            self.replaced = {root / name for name in names if not {"..", "/"} & {*Path(name).parts}}
            self.rows, self._whole = {}, 0

    def _check_settings(self) -> None:
        before = read_json(self._marker)
        settings = json.loads(json.dumps(self._settings))
        for name in {**settings, **before}:
            if before.get(name) != settings.get(name):
                raise UserError(
                    f"out={self.root} has the answers of another command: its {name} was "
                    f"{describe(before.get(name))}, and is now {describe(settings.get(name))}. Choose "
                    "another folder, or start over with overwrite=true."
                )

    def _read(self) -> None:
        """Read the answers; the end of a line that was cut off is left out."""
        content = self._file.read_bytes() if self._file.is_file() else b""
        self._whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[: self._whole].splitlines(), 1):
            try:
                row: Any = parse_json(line)
                self.rows[row["image"], row["prefix"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self._file} line {number}: expected a row that `predict` wrote. Restore the file, "
                    "or start over with overwrite=true."
                ) from error

    @contextmanager
    def open(self) -> Iterator[IO[str]]:
        """Claim the folder, and open the file that `add` appends to.

        Raises:
            UserError: another process writes there, or the folder may not be written.
        """
        with explain_disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            stream = self._file.open("a", encoding="utf-8", errors="backslashreplace")
        with stream:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _IN_USE:
                    raise UserError(f"out={self.root}: another `predict` is writing there.") from error
            with explain_disk_errors(self.root):
                for drawing in self.replaced:
                    drawing.unlink(missing_ok=True)
                stream.truncate(self._whole)
                write_json(self._marker, self._settings)
            yield stream

    def add(self, stream: IO[str], row: PredictionRow) -> None:
        """Append an answer, so that it is kept whatever happens to the next one."""
        with explain_disk_errors(self.root):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()

    def list_left_out(self, faults: Sequence[str]) -> None:
        """Write why images have no answer; without any, delete the list of an earlier command."""
        with explain_disk_errors(self.root):
            if faults:
                write_jsonl(self.left_out, ({"reason": fault} for fault in faults))
            else:
                self.left_out.unlink(missing_ok=True)
