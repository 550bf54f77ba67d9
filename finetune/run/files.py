"""Complete files: written under a temporary name, flushed to the disk, and then renamed.

A kill, a full disk or a power cut leaves the old file or the new one, never a part of either. The flush is
needed because a file system may rename before it writes the data.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetune.errors import UserError
from finetune.run.lock import MARKER
from finetune.strict_json import parse_json

_FULL = 1 << 20
"""Bytes left on a disk that counts as full once something could not be written."""

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EROFS, errno.EPERM}


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with _renamed(path) as partial:
        # A lone surrogate in data cannot be encoded; escaped like this, JSON reads it back.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON document that a run wrote.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected the JSON that the run wrote, but it cannot be read ({error}). Restore the "
            "file, or move it away."
        ) from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, the file whole or not at all."""
    with _renamed(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder, whole or not at all; files of an older one that `write` does not make are kept.

    Args:
        path: the folder.
        write: writes the files into the folder that it is given.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        for file in partial.rglob("*"):
            flush(file)
        for file in remove_written(path.parent, path.name) if path.is_dir() else []:
            target = partial / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
        if path.is_dir():
            shutil.rmtree(path)
        partial.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


_WEIGHTS = (
    "adapter_model.safetensors", "model.safetensors", "model-?????-of-?????.safetensors",
    "model.safetensors.index.json", "README.md", "adapter_config.json", "config.json",
    "generation_config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
CHECKPOINT_FILES = (
    *_WEIGHTS, "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json",
    "training_args.bin", "complete",
)  # fmt: skip
_PICTURES = "[0-9][0-9][0-9]*.png"
_THUMBNAILS = ("[0-9]*.png", "[0-9]*.jpeg")
_WRITTEN = {
    ".": (
        "config.yaml", "environment.json", "metrics.json", "mask_vae.npz", "train.log",
        "skipped.jsonl", "history.jsonl", "report.html", "report.md", "reproduce.json", ".*.partial",
    ),
    "predictions": ("validation*.jsonl", "test*.jsonl", ".*.partial"),
    "pictures": (_PICTURES, ".*.partial"),
    "thumbnails": (".*.partial",),
    "thumbnails/validation*": _THUMBNAILS,
    "thumbnails/.validation*.partial": _THUMBNAILS,
    "thumbnails/test*": _THUMBNAILS,
    "thumbnails/.test*.partial": _THUMBNAILS,
    "adapter": _WEIGHTS,
    ".adapter.partial": _WEIGHTS,
    "model": _WEIGHTS,
    ".model.partial": _WEIGHTS,
    ".pictures.partial": (_PICTURES,),
    "checkpoints": (),
    "checkpoints/checkpoint-[0-9]*": CHECKPOINT_FILES,
}  # fmt: skip
"""Folder in a run's folder -> names of the files that a run writes into it. Nothing else is ever deleted:
a user may keep notes or other results next to them."""

_LIBRARIES = ("tensorboard", "wandb")
"""Folders that only a library writes into; deleted as a whole."""


def remove_written(root: Path, inside: str = ".") -> list[Path]:
    """Delete the files that a run wrote, and return all others, which are kept.

    Args:
        root: the run's folder.
        inside: the folder in it to empty, one of `_WRITTEN`.
    """
    folder, remains = root / inside, []
    names = next((files for name, files in _WRITTEN.items() if _matches(inside, name)), ())
    for entry in sorted(folder.iterdir()):
        below = entry.name if inside == "." else f"{inside}/{entry.name}"
        if below == MARKER:
            continue  # locked by this process; `RunFolder.discard` deletes it last
        if not entry.is_dir():
            if is_written(entry, names):
                entry.unlink()
            else:
                remains.append(entry)
        elif any(_matches(below, name) for name in _WRITTEN):
            remains += remove_written(root, below)
            # A link to a larger disk stays a link.
            if not entry.is_symlink() and not any(entry.iterdir()):
                entry.rmdir()
        elif below in _LIBRARIES and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            remains += [file for file in sorted(entry.rglob("*")) if not file.is_dir()]
    return remains


def is_written(file: Path, names: tuple[str, ...]) -> bool:
    """Return whether a file has one of the names that a run gives its files in that folder."""
    return any(fnmatch(file.name, name) for name in names)


def _matches(folder: str, pattern: str) -> bool:
    return folder.count("/") == pattern.count("/") and fnmatch(folder, pattern)


@contextmanager
def explain_disk_errors(
    folder: Path,
    once_free: str = "Earlier complete checkpoints are whole. Free some space, then add resume=true.",
    choose: str = "Choose another runs_dir=",
) -> Iterator[None]:
    """Turn a full disk, a quota or a folder that may not be written into a `UserError`.

    Args:
        folder: where the block writes.
        once_free: what to do about a full disk.
        choose: what to do about a folder that may not be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _find_number(error)
        # torch and safetensors raise their own errors, without an error number.
        full = number in _OUT_OF_SPACE or (
            number is None and shutil.disk_usage(_existing(folder)).free < _FULL
        )
        if full:
            raise UserError(
                f"The disk is full, or a quota: could not write under {folder} ({error}). {once_free}"
            ) from error
        if number in _NOT_ALLOWED:
            raise UserError(f"May not write under {folder} ({error}). {choose}.") from error
        raise


def _find_number(error: Exception) -> int | None:
    """Return the number in safetensors' `File too large (os error 27)`."""
    text = str(error)
    numbers = [number for number in _OUT_OF_SPACE | _NOT_ALLOWED if f"(os error {number})" in text]
    return numbers[0] if numbers else None


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
