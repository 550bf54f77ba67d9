"""The folder of one run: what it is called, whether it may be written, and writing without torn files.

Every file is written under a temporary name and renamed, so that a kill leaves the old file or the new.
"""

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetune.errors import UserError

_FULL = 1 << 20
"""Bytes left on a disk that counts as full once something could not be written."""

COMPLETE = "complete"
"""A checkpoint's folder holds this file once everything else in it has been written."""


@dataclass(frozen=True)
class Launch:
    """How a job was started."""

    folder: Path
    """The run's folder."""
    recipe: str
    """The composed config as a recipe: the text of `config.yaml`."""
    command: list[str]
    """The words of the command line, with `python -m finetune`."""


class RunFolder:
    """Paths inside a run's folder.

    Args:
        root: the folder; need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.metrics = root / "metrics.json"
        self.mask_vae = root / "mask_vae.npz"
        self.pictures = root / "pictures"
        self.environment = root / "environment.json"
        self.log = root / "train.log"
        self.checkpoints = root / "checkpoints"
        self.predictions = root / "predictions"
        self.adapter = root / "adapter"
        self.model = root / "model"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that may not be written, before anything slow is done.

        Raises:
            UserError: it holds a run and neither flag was given, or `resume` found nothing to resume.
        """
        taken = self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir()))
        if resume:
            if self.last_checkpoint() is None:
                raise UserError(
                    f"resume=true, but {self.checkpoints} holds no complete checkpoint. "
                    "Start again with overwrite=true, or choose another run_name=."
                )
        elif taken and overwrite and not self.config.is_file():
            raise UserError(
                f"overwrite=true would delete {self.root}, which is not a run (no config.yaml). "
                "Choose another run_name= or delete it yourself."
            )
        elif taken and not overwrite:
            go_on = "continue it (resume=true), " if self.last_checkpoint() else ""
            raise UserError(
                f"{self.root} already holds a run. Choose a name (run_name=NAME), {go_on}or replace it "
                "(overwrite=true)."
            )

    def claim(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, empty but for a run that is resumed.

        Raises:
            UserError: see `check`.
        """
        self.check(resume=resume, overwrite=overwrite)
        with explain_disk_errors(self.root):
            if overwrite and self.root.exists():
                shutil.rmtree(self.root)
            self.root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def discarded_unless_begun(self) -> Iterator[None]:
        """Delete the folder where a mistake ends the block before the first checkpoint."""
        try:
            yield
        except UserError:
            if self.last_checkpoint() is None:
                shutil.rmtree(self.root, ignore_errors=True)
            raise

    def last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint; half-written ones do not count."""
        complete = [folder for folder in self._numbered() if (folder / COMPLETE).is_file()]
        return complete[-1] if complete else None

    def incomplete_checkpoints(self) -> list[Path]:
        """Return what a kill or a full disk left half-written."""
        return [folder for folder in self._numbered() if not (folder / COMPLETE).is_file()]

    def _numbered(self) -> list[Path]:
        folders = [path for path in self.checkpoints.glob("checkpoint-*") if path.is_dir()]
        return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with _renamed(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with _renamed(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder whole or not at all; one that is there is replaced.

    Args:
        path: the folder.
        write: fills the folder it is given.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def explain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a folder that may not be written into a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        # torch and safetensors write for themselves, and raise errors of their own without a number.
        full = number in {errno.ENOSPC, errno.EDQUOT} or (
            number is None and shutil.disk_usage(_existing(folder)).free < _FULL
        )
        if full:
            raise UserError(
                f"The disk is full: could not write under {folder} ({error}). Earlier complete "
                "checkpoints are whole. Free some space, then add resume=true."
            ) from error
        if number in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise UserError(f"May not write under {folder} ({error}). Choose another runs_dir=.") from error
        raise


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def describe_environment(command: list[str]) -> dict[str, Any]:
    """Return versions, commit, hardware and command line, for `environment.json`."""
    import torch

    packages = (
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        "datasets",
        "accelerate",
        "hydra-core",
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "command": command,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": commit or None,
        "packages": {name: metadata.version(name) for name in packages},
    }
