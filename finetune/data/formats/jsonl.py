"""One JSON object a line, with `image`, `prefix` and `suffix`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features, List, Value

from finetune.data.faults import Faults
from finetune.data.files import find_image_dir, load_files
from finetune.data.images import read_size, resolve_image
from finetune.data.json_files import Record
from finetune.data.records import read_json_lines
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
    first = next(read_json_lines(Faults(skip=True), file), None) if Path(file).is_file() else None
    return first is not None and isinstance(first[1].get("image"), list)


def read_jsonl(faults: Faults, file: str, image_dir: str | None, several: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for every line that is not blank."""
    folder = find_image_dir(file, image_dir)
    for number, row in read_json_lines(faults, file):
        with faults.skipping():
            yield {**read_texts(row, number), **place_images(row["image"], folder, several, row.where)}


def read_texts(row: Record, number: int | str) -> dict[str, Any]:
    """Return `id`, `group`, `prefix` and `suffixes` of an object with `prefix` and `suffix`.

    Args:
        row: the object.
        number: its id, where it has no `id`.

    Raises:
        UserError: a key is missing, or a value is no text.
    """
    if not isinstance(row["prefix"], str):
        raise UserError(f"{row.where}: `prefix` must be a string, got {row['prefix']!r}.")
    return {
        "id": str(row.get("id", number)),
        "group": None if row.get("group") is None else str(row["group"]),
        "prefix": row["prefix"],
        "suffixes": read_accepted(row, "suffix"),
    }


def read_accepted(row: Record, key: str) -> list[str]:
    """Return the accepted texts under a key, which may hold one string or a list of them.

    Raises:
        UserError: it holds something else, or nothing.
    """
    texts = [row[key]] if isinstance(row[key], str) else row[key]
    if not _is_texts(texts):
        raise UserError(
            f"{row.where}: `{key}` must be a string or a list of accepted strings, got {row[key]!r}."
        )
    return list(texts)


def place_images(image: Any, folder: Path, several: bool, where: str) -> dict[str, Any]:
    """Return `images`, or `image` with its `width` and `height`.

    Args:
        image: name of a file, or a list of them.
        folder: where the files lie.
        several: a list is expected.
        where: file and place, for the error message.

    Raises:
        UserError: it is of the other kind, or a picture cannot be read.
    """
    if several and not _is_texts(image):
        raise UserError(f"{where}: `image` must be a list of files as in the first row, got {image!r}.")
    if several:
        return {"images": [resolve_image(name, folder, where) for name in image]}
    path = resolve_image(image, folder, where)
    height, width = read_size(path, where)
    return {"image": path, "width": width, "height": height}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
