"""The training and validation split of custom files: two files, or one with a share held out."""

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Features

from finetune.data.images import IMAGE_SUFFIXES
from finetune.data.options import FileOptions, ImageFileOptions
from finetune.data.rows import Reader, Splits, build_rows, hold_out
from finetune.errors import UserError

_LISTED = 12
"""Maximum number of a folder's names in a message."""


def load_files(read: Reader, features: Features, options: ImageFileOptions, **arguments: object) -> Splits:
    """Read both splits, each from its own file.

    Args:
        read: `(faults, file, image_dir, **arguments)` to rows: the reader of the format.
        features: the columns of its rows.
        options: name the files.
        arguments: those of the format.
    """
    sources = []
    for option, name in options.files():
        file = find_file(name, option)
        folder = None if options.image_dir is None else str(find_image_dir(file, options.image_dir))
        sources.append({"file": file, "image_dir": folder, **arguments})
    return load_sources(read, features, options, *sources, paths=("file",))


def load_sources(
    read: Reader,
    features: Features,
    options: FileOptions,
    train: Mapping[str, object],
    validation: Mapping[str, object] | None = None,
    *,
    paths: tuple[str, ...],
) -> Splits:
    """Read both splits with a reader that takes more than a file for each.

    Args:
        read: `(faults, file, **arguments)` to rows.
        features: the columns of its rows.
        options: what to do with faults, and the share to hold out if there is no second file.
        train: the arguments of the reader for the training split, including `file`.
        validation: the same for the validation split.
        paths: names of the arguments that are files and folders, as in `build_rows`.

    Raises:
        UserError: the reader raised it, or there are no rows.
    """
    sources = [source for source in (train, validation) if source is not None]
    built = [
        build_rows(read, features, options.on_error, paths=paths, origin=str(source["file"]), **source)
        for source in sources
    ]
    for source, (rows, skipped) in zip(sources, built, strict=True):
        if len(rows) == 0:
            left = f" ({len(skipped)} were left out: {skipped[0]})" if skipped else ""
            raise UserError(f"{source['file']} has no rows{left}.")
    if validation is not None:
        return Splits(built[0].rows, built[1].rows, (*built[0].skipped, *built[1].skipped))
    assert options.validation_fraction is not None, "`problems` asks for one of the two"
    splits = hold_out(built[0].rows, options.validation_fraction)
    return splits._replace(skipped=tuple(built[0].skipped))


def find_file(file: str | None, option: str = "train", folder: bool = False) -> str:
    """Return a file that exists.

    Args:
        file: as the user wrote it.
        option: the key of `dataset` for it, for the error message.
        folder: a folder is accepted too.

    Raises:
        UserError: it does not exist, or is something else.
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


def find_inside(file: str | None, option: str, names: Sequence[str], advice: str = "") -> str:
    """Return a file, or the only one of these names in a folder.

    Args:
        file: file or folder as the user wrote it.
        option: the key of `dataset` for it, for the error message.
        names: what the file may be called in a folder.
        advice: what else to do, for the error message.

    Raises:
        UserError: it does not exist, or the folder has none or several of these.
    """
    folder = Path(found := find_file(file, option, folder=True))
    if not folder.is_dir():
        return found
    present = [name for name in names if (folder / name).is_file()]
    if len(present) != 1:
        got = " and ".join(present) or "none"
        several = f": expected one of {', '.join(names)}, got {got}"
        problem = several if len(names) > 1 else f" has no {names[0]}"
        raise UserError(f"{file} (dataset.{option}){problem}. {describe_folder(folder)} {advice}".rstrip())
    return str(folder / present[0])


def describe_folder(folder: Path) -> str:
    """Return a sentence that lists a few files of a folder that are not images."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() not in IMAGE_SUFFIXES)
    except OSError as error:
        return f"It cannot be read ({error.strerror})."
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return f"It holds: {listed or 'no files but images'}."


def find_image_dir(file: str, image_dir: str | None) -> Path:
    """Return the folder of a file's images.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(image_dir) if image_dir else Path(file).parent
    if not folder.is_dir():
        raise UserError(f"No folder {folder}; pass dataset.image_dir=FOLDER.")
    return folder.resolve()
