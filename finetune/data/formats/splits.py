"""The training and validation split of custom files: two sets of files, or one with a share held out."""

import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, Features, concatenate_datasets

from finetune.data.images import IMAGE_SUFFIXES
from finetune.data.layouts.splits import choose_split
from finetune.data.options import FileOptions, ImageFileOptions
from finetune.data.reading.faults import reading
from finetune.data.rows import Built, Reader, Splits, build_rows, hold_out
from finetune.errors import UserError

_LISTED = 12
"""Maximum number of a folder's names in a message."""

Finder = Callable[[Path], dict[str, str]]
"""`find_splits` of a format: split -> file of an export; empty if it is not of the format."""

Arguments = Mapping[str, object]
"""The arguments of a reader for one file, including `file`."""


class Files(NamedTuple):
    """The files of both splits."""

    train: tuple[str, ...]
    validation: tuple[str, ...] | None
    """None: a share of `train` is held out."""


def find_split_files(options: FileOptions, find: Finder, expected: str) -> Files:
    """Return the files of both splits: a file, several, or those of an export in a folder.

    Args:
        options: name them.
        find: finds the splits of a folder.
        expected: what a folder of the format has, for the error message.

    Raises:
        UserError: there is no such file; or a folder does not have the split.
    """
    # `FileOptions.for_validation` has the validation file in both places: a message names its own option.
    named = {value: option for option, value in options.files()}
    files = {
        option: tuple(
            _find_in_folder(file, option, find, expected)
            for pattern in split_list(value or find_file(None))
            for file in expand_files(pattern, named[value], folder=True)
        )
        for option, value in options.files()
    }
    return Files(files.get("train") or files["test"], files.get("validation"))


def list_files(files: Files) -> tuple[str, ...]:
    """Return the files of both splits."""
    return (*files.train, *(files.validation or ()))


def split_list(value: str) -> list[str]:
    """Return the items of `[a.jsonl,b.jsonl]`; of another name, the name alone."""
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")) or Path(value).exists():
        return [value]
    items = [item.strip().strip("'\"") for item in text[1:-1].split(",")]
    return [item for item in items if item] or [value]


def expand_files(pattern: str, option: str = "train", folder: bool = False) -> tuple[str, ...]:
    """Return the files that match `{000..009}` and `*`, in order.

    Args:
        pattern: as the user wrote it.
        option: the key of `dataset` for it, for the error message.
        folder: a folder is accepted too.

    Raises:
        UserError: there is none, or one of the numbered files is missing.
    """
    numbers = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if numbers:
        first, last = numbers.groups()
        names = (
            f"{pattern[: numbers.start()]}{number:0{len(first)}d}{pattern[numbers.end() :]}"
            for number in range(int(first), int(last) + 1)
        )
        if int(first) > int(last):
            raise UserError(f"{pattern} (dataset.{option}): expected the lower number first.")
        return tuple(file for name in names for file in expand_files(name, option, folder))
    path = Path(pattern)
    with reading(pattern):
        exists = "\0" not in pattern and path.exists()
        plain = exists or not any(mark in pattern for mark in "*?[")
        paths = [] if plain else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        matches = sorted(map(str, paths))
    return tuple(find_file(file, option, folder) for file in matches or [pattern])


def _find_in_folder(file: str, option: str, find: Finder, expected: str) -> str:
    """Return a file, or that of a split in the folder of an export."""
    if not Path(file).is_dir():
        return file
    splits = find(Path(file))
    if not splits:
        raise UserError(
            f"{file} (dataset.{option}) is a folder without {expected}. {describe_folder(Path(file))} "
            "Name a file, or the folder of the export."
        )
    chosen = choose_split(splits, option)
    if chosen is None:
        listed = ", ".join(f"{split} ({name})" for split, name in splits.items())
        raise UserError(
            f"{file} (dataset.{option}) has no {option} split; it has: {listed}. Name its file or folder, "
            "or hold out a share: dataset.validation_fraction=0.1."
        )
    return chosen


def load_files(
    read: Reader, features: Features, options: ImageFileOptions, files: Files, **arguments: object
) -> Splits:
    """Read both splits, each from its own files.

    Args:
        read: `(faults, file, image_dir, **arguments)` to rows: the reader of the format.
        features: the columns of its rows.
        options: name the folder of the images.
        files: from `find_split_files`.
        arguments: those of the format.

    Raises:
        UserError: names the file and the place in it.
    """

    def gather(names: Sequence[str]) -> list[Arguments]:
        return [
            {
                "file": file,
                "image_dir": options.image_dir and str(find_image_dir(file, options.image_dir)),
                **arguments,
            }
            for file in names
        ]

    validation = None if files.validation is None else gather(files.validation)
    return load_sources(read, features, options, gather(files.train), validation, paths=("file",))


def load_sources(
    read: Reader,
    features: Features,
    options: FileOptions,
    train: Sequence[Arguments],
    validation: Sequence[Arguments] | None = None,
    *,
    paths: tuple[str, ...],
) -> Splits:
    """Read both splits with a reader that takes more than a file for each.

    Args:
        read: `(faults, file, **arguments)` to rows.
        features: the columns of its rows.
        options: what to do with faults, and the share to hold out if there is no second file.
        train: the arguments of the reader for each part of the training split.
        validation: the same for the validation split.
        paths: names of the arguments that are files and folders, as in `build_rows`.

    Raises:
        UserError: the reader raised it, or there are no rows.
    """
    first = _build(read, features, options, train, paths)
    if validation is not None:
        second = _build(read, features, options, validation, paths)
        return Splits(first.rows, second.rows, (*first.skipped, *second.skipped))
    if options.is_test:
        return Splits(first.rows, first.rows, tuple(first.skipped))
    assert options.validation_fraction is not None, "`problems` asks for one of the two"
    splits = hold_out(first.rows, options.validation_fraction)
    return splits._replace(skipped=tuple(first.skipped))


def _build(
    read: Reader,
    features: Features,
    options: FileOptions,
    sources: Sequence[Arguments],
    paths: tuple[str, ...],
) -> Built:
    """Return the rows of one split; each of its files has its own rows in the cache."""
    built = []
    for source in sources:
        origin = str(source["file"])
        rows, skipped = build_rows(read, features, options.on_error, paths=paths, origin=origin, **source)
        if len(rows) == 0:
            left = f" ({len(skipped)} were left out: {skipped[0]})" if skipped else ""
            raise UserError(f"{origin} has no rows{left}.")
        built.append(Built(rows, skipped))
    if len(built) == 1:
        return built[0]
    names = [str(source["file"]) for source in sources]
    rows = concatenate_datasets(_name_apart([each.rows for each in built], names))
    return Built(rows, [fault for each in built for fault in each.skipped])


def _name_apart(parts: Sequence[Dataset], files: Sequence[str]) -> list[Dataset]:
    """Return rows of several files with the file's name before each id, if two files have the same id."""
    ids = [part["id"][:] for part in parts]
    if len({row_id for each in ids for row_id in each}) == sum(map(len, ids)):
        return list(parts)
    stems = [Path(file).stem for file in files]
    heads = stems if len(set(stems)) == len(stems) else files
    named = []
    for part, part_ids, head in zip(parts, ids, heads, strict=True):
        apart = part.remove_columns("id").add_column("id", [f"{head}/{row_id}" for row_id in part_ids])
        named.append(apart.select_columns(part.column_names))
    return named


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


def find_image_dirs(file: str, image_dir: str | None, likely: Callable[[Path], list[Path]]) -> list[Path]:
    """Return the given folder of images, or the likely ones of a file.

    Args:
        file: the file that names the images.
        image_dir: as the user named it; None: unknown.
        likely: `find_image_folders` of the format.

    Raises:
        UserError: there is no such folder.
    """
    folders = [] if image_dir else [folder.resolve() for folder in likely(Path(file))]
    return folders or [find_image_dir(file, image_dir)]
