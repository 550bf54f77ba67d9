"""People's own files: two of them, or one and a share of its pictures to evaluate on."""

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
    if train is None:
        raise UserError("Which data? dataset.train=FILE is missing.")
    built = [
        build_rows(read, features, on_error, file=_find(file), **options)
        for file in (train, validation)
        if file is not None
    ]
    for file, (rows, skipped) in zip((train, validation), built, strict=False):
        if len(rows) == 0:
            left = f" ({len(skipped)} were left out: {skipped[0]})" if skipped else ""
            raise UserError(f"{file} has no rows{left}.")
    if validation is not None:
        return Splits(built[0].rows, built[1].rows, (*built[0].skipped, *built[1].skipped))
    assert validation_fraction is not None, "checks.py asks for one of the two"
    held = hold_out(built[0].rows, validation_fraction)
    return held._replace(skipped=tuple(built[0].skipped))


def _find(file: str) -> str:
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
