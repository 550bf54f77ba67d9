"""People's own files: two of them, or one and a share of its pictures to evaluate on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Features

from finetune.data.rows import Reader, Splits, build_rows, hold_out
from finetune.errors import UserError


def load_files(
    read: Reader,
    features: Features,
    train: str | None,
    validation: str | None,
    validation_fraction: float | None,
    on_error: str,
    **options: Any,
) -> Splits:
    """Read both splits.

    Args:
        read: `(faults, file, **options)` to rows; the format's own.
        features: the columns of its rows.
        train: file or folder to train on.
        validation: file or folder to evaluate on.
        validation_fraction: share of the pictures of `train`, where there is none.
        on_error: `error` or `skip`.
        options: the format's own.

    Raises:
        UserError: names the file and the place in it.
    """
    return load_sources(
        read,
        features,
        {"file": find_file(train), **options},
        None if validation is None else {"file": find_file(validation), **options},
        validation_fraction,
        on_error,
    )


def load_sources(
    read: Reader,
    features: Features,
    train: Mapping[str, Any],
    validation: Mapping[str, Any] | None,
    validation_fraction: float | None,
    on_error: str,
) -> Splits:
    """Read both splits, where a format's reader needs more of each than its file.

    Args:
        read: `(faults, file, **arguments)` to rows.
        features: the columns of its rows.
        train: the reader's arguments for the rows to train on, `file` among them.
        validation: the same for those to evaluate on.
        validation_fraction: share of the pictures of `train`, where there are none.
        on_error: `error` or `skip`.

    Raises:
        UserError: the reader's own, or there are no rows.
    """
    sources = [source for source in (train, validation) if source is not None]
    built = [build_rows(read, features, on_error, **source) for source in sources]
    for source, (rows, skipped) in zip(sources, built, strict=True):
        if len(rows) == 0:
            left = f" ({len(skipped)} were left out: {skipped[0]})" if skipped else ""
            raise UserError(f"{source['file']} has no rows{left}.")
    if validation is not None:
        return Splits(built[0].rows, built[1].rows, (*built[0].skipped, *built[1].skipped))
    assert validation_fraction is not None, "checks.py asks for one of the two"
    held = hold_out(built[0].rows, validation_fraction)
    return held._replace(skipped=tuple(built[0].skipped))


def find_file(file: str | None) -> str:
    """Return a file or folder that is there.

    Raises:
        UserError: it is not.
    """
    if file is None:
        raise UserError("Which data? dataset.train=FILE is missing.")
    if not Path(file).exists():
        raise UserError(f"No file {file}. Paths are relative to the current folder.")
    return file


def find_image_dir(file: str, image_dir: str | None) -> Path:
    """Return the folder in which a file's pictures are looked for.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(image_dir) if image_dir else Path(file).parent
    if not folder.is_dir():
        raise UserError(f"No folder {folder}; pass dataset.image_dir=FOLDER.")
    return folder.resolve()
