"""One JSON object a line, with `image`, `prefix` and `suffix`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features, List, Value

from finetune.data.faults import Faults
from finetune.data.files import find_image_dir, load_files
from finetune.data.images import read_size, resolve_image
from finetune.data.rows import Splits, text_features
from finetune.errors import UserError

FEATURES = Features(
    {**text_features("prefix", lists=("suffixes",)), "width": Value("int32"), "height": Value("int32")}
)
FEATURES_OF_SEVERAL = Features(
    {
        **{name: kind for name, kind in FEATURES.items() if name not in {"image", "width", "height"}},
        "images": List(Value("string")),
    }
)


def load_jsonl(
    train: str | None,
    validation: str | None,
    validation_fraction: float | None,
    image_dir: str | None,
    on_error: str,
) -> Splits:
    """Read the files of both splits, or hold out a share of `train`.

    Args:
        train: the file to train on.
        validation: the file to evaluate on.
        validation_fraction: share of the pictures of `train`, where there is no such file.
        image_dir: folder of the pictures; null: each file's own.
        on_error: `error` or `skip`.

    Raises:
        UserError: names the file and the line.
    """
    several = train is not None and has_several_images(train)
    features = FEATURES_OF_SEVERAL if several else FEATURES
    return load_files(
        read_jsonl,
        features,
        train,
        validation,
        validation_fraction,
        on_error,
        image_dir=image_dir,
        several=several,
    )


def has_several_images(file: str) -> bool:
    """Return whether the first row's `image` is a list."""
    if not Path(file).is_file():
        return False
    with Path(file).open(encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return False
    return isinstance(row, dict) and isinstance(row.get("image"), list)


def read_jsonl(faults: Faults, file: str, image_dir: str | None, several: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for every line that is not blank."""
    folder = find_image_dir(file, image_dir)
    with Path(file).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            with faults.skipping():
                if line.strip():
                    yield _convert(line, number, folder, several, f"{file} line {number}")


def _convert(line: str, number: int, folder: Path, several: bool, where: str) -> dict[str, Any]:
    row = _parse(line, where, several)
    converted = {
        "id": str(row.get("id", number)),
        "group": None if row.get("group") is None else str(row["group"]),
        "prefix": row["prefix"],
        "suffixes": row["suffix"],
    }
    if several:
        return {**converted, "images": [resolve_image(name, folder, where) for name in row["image"]]}
    image = resolve_image(row["image"], folder, where)
    height, width = read_size(image, where)
    return {**converted, "image": image, "width": width, "height": height}


def _parse(line: str, where: str, several: bool) -> dict[str, Any]:
    """Read one line and check its keys and types."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not a whole JSON object ({error.msg}). The file may be half-written."
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(row).__name__}.")
    for key in ("image", "prefix", "suffix"):
        if key not in row:
            raise UserError(f"{where}: no `{key}`; the keys are: {', '.join(row) or 'none'}.")
    if not isinstance(row["prefix"], str):
        raise UserError(f"{where}: `prefix` must be a string, got {row['prefix']!r}.")
    if several and not _is_texts(row["image"]):
        raise UserError(
            f"{where}: `image` must be a list of files as in the first row, got {row['image']!r}."
        )
    if not several and not isinstance(row["image"], str):
        raise UserError(f"{where}: `image` must be a string, got {row['image']!r}.")
    suffix = [row["suffix"]] if isinstance(row["suffix"], str) else row["suffix"]
    if not _is_texts(suffix):
        raise UserError(
            f"{where}: `suffix` must be a string or a list of accepted strings, got {row['suffix']!r}."
        )
    return {**row, "suffix": suffix}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
