"""People's own files: two of them, or one and a share of its pictures to evaluate on."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Features

from finetune.data.images import PICTURE_SUFFIXES
from finetune.data.options import FileOptions, ImageFileOptions
from finetune.data.rows import Reader, Splits, build_rows, hold_out
from finetune.errors import UserError

_LISTED = 12
"""The most names of a folder in a message."""


def load_files(read: Reader, features: Features, options: ImageFileOptions, **arguments: Any) -> Splits:
    """Read both splits, each from a file of its own.

    Args:
        read: `(faults, file, image_dir, **arguments)` to rows; the format's own.
        features: the columns of its rows.
        options: name the files.
        arguments: the format's own.

    Raises:
        UserError: names the file and the place in it.
    """
    sources = [
        {"file": find_file(file, option), "image_dir": options.image_dir, **arguments}
        for option, file in (("train", options.train), ("validation", options.validation))
        if option == "train" or file is not None
    ]
    for source in sources:
        if options.image_dir is not None:
            source["image_dir"] = str(find_image_dir(source["file"], options.image_dir))
    return load_sources(read, features, options, *sources, paths=("file",))


def load_sources(
    read: Reader,
    features: Features,
    options: FileOptions,
    train: Mapping[str, Any],
    validation: Mapping[str, Any] | None = None,
    *,
    paths: tuple[str, ...],
) -> Splits:
    """Read both splits, where a format's reader needs more of each than its file.

    Args:
        read: `(faults, file, **arguments)` to rows.
        features: the columns of its rows.
        options: what to do with faults, and which share is held out where there is no second file.
        train: the reader's arguments for the rows to train on, `file` among them.
        validation: the same for those to evaluate on.
        paths: names of the arguments that are files and folders, as in `build_rows`.

    Raises:
        UserError: the reader's own, or there are no rows.
    """
    sources = [source for source in (train, validation) if source is not None]
    built = [build_rows(read, features, options.on_error, paths=paths, **source) for source in sources]
    for source, (rows, skipped) in zip(sources, built, strict=True):
        if len(rows) == 0:
            left = f" ({len(skipped)} were left out: {skipped[0]})" if skipped else ""
            raise UserError(f"{source['file']} has no rows{left}.")
    if validation is not None:
        return Splits(built[0].rows, built[1].rows, (*built[0].skipped, *built[1].skipped))
    assert options.validation_fraction is not None, "its `problems` ask for one of the two"
    held = hold_out(built[0].rows, options.validation_fraction)
    return held._replace(skipped=tuple(built[0].skipped))


def find_file(file: str | None, option: str = "train", folder: bool = False) -> str:
    """Return a file that is there.

    Args:
        file: as it was named.
        option: of `dataset`, that names it.
        folder: a folder will do.

    Raises:
        UserError: it is not there, or is something else.
    """
    if file is None:
        raise UserError(f"Which data? dataset.{option}=FILE is missing.")
    path = Path(file)
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        missing = isinstance(error, FileNotFoundError)
        raise UserError(
            f"No file {file} (dataset.{option}){'' if missing else f': {reason}'}. It is named on the "
            "command line or in the recipe; paths are relative to the current folder."
        ) from error
    if stat.S_ISREG(kind) or (folder and stat.S_ISDIR(kind)):
        return file
    if not stat.S_ISDIR(kind):
        raise UserError(
            f"{file} (dataset.{option}) is a pipe or a device; expected a file. Copy it to one."
        )
    raise UserError(
        f"{file} (dataset.{option}) is a folder; expected a file. {describe_folder(path)} Name one of them."
    )


def describe_folder(folder: Path) -> str:
    """Return a sentence with the files of a folder that are no images, a few of them."""
    try:
        names = sorted(
            path.name for path in folder.iterdir() if path.suffix.lower() not in PICTURE_SUFFIXES
        )
    except OSError as error:
        return f"It cannot be read ({error.strerror})."
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return f"It holds: {listed or 'no files but images'}."


def find_image_dir(file: str, image_dir: str | None) -> Path:
    """Return the folder in which a file's pictures are looked for.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(image_dir) if image_dir else Path(file).parent
    if not folder.is_dir():
        raise UserError(f"No folder {folder}; pass dataset.image_dir=FOLDER.")
    return folder.resolve()
