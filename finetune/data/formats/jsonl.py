"""JSON objects, one per line or in a list, with `image`, `prefix` and `suffix`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from finetune.data.cache import PLACE
from finetune.data.formats.splits import find_image_dirs, find_split_files, list_files, load_files
from finetune.data.images import measure_image
from finetune.data.layouts.texts import find_image_folders, find_pairs
from finetune.data.options import Jsonl
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.record import Record, is_number
from finetune.data.reading.tables import read_json_rows
from finetune.data.rows import PATHS, Row, Splits, text_features
from finetune.errors import UserError

FEATURES = text_features("prefix", lists=("suffixes",), numbers=("width", "height"))
FEATURES_OF_SEVERAL = text_features("prefix", lists=("suffixes",), image=PATHS)

_REMEMBERED = 1 << 14
"""Images that are not looked up again: many rows often share one."""


def load_jsonl(options: Jsonl) -> Splits:
    """Read the files of both splits, or hold out a share of `train`."""
    files = find_split_files(options, find_pairs, "JSON Lines with `image`, `prefix` and `suffix`")
    columns = {ours: theirs for ours, theirs in options.columns.items() if theirs is not None}
    several = any(has_lists(file, columns.get("image", "image")) for file in list_files(files))
    features = FEATURES_OF_SEVERAL if several else FEATURES
    return load_files(read_jsonl, features, options, files, columns=columns, several=several)


def has_lists(file: str, key: str) -> bool:
    """Return whether a row has a list of images; the others then have a list of one."""
    with reading(file):
        rows = read_json_rows(Faults(skip=True), file, having="[")
        return any(isinstance(row.get(key), list) for _, row in rows)


def read_jsonl(
    faults: Faults, file: str, image_dir: str | None, columns: Mapping[str, str], several: bool
) -> Iterator[Row]:
    """Yield a row for every object.

    Args:
        faults: what to do with a row that cannot be used.
        file: JSON Lines, or a JSON list.
        image_dir: folder of the images; None: the folder of the file.
        columns: key here -> key in the file, if they differ.
        several: rows have lists of images.
    """
    folders = find_image_dirs(file, image_dir, find_image_folders)
    placed: dict[str, dict[str, object]] = {}
    for number, row in read_json_rows(faults, file):
        with faults.skipping():
            row = row.renamed(columns) if columns else row
            texts, image = read_texts(row, number), repr(row["image"])
            if image not in placed:
                if len(placed) >= _REMEMBERED:
                    placed.clear()
                placed[image] = place_images(row["image"], folders, several, row.where)
            yield {**texts, **placed[image], PLACE: row.where}


def read_texts(row: Record, number: int | str) -> dict[str, object]:
    """Return `id`, `group`, `prefix` and `suffixes` of an object with `prefix` and `suffix`.

    Args:
        row: the object.
        number: its id, if it has no `id`.

    Raises:
        UserError: a key is missing, or a value is not a text.
    """
    prefix = row["prefix"]
    if not isinstance(prefix, str):
        raise UserError(f"{row.where}: `prefix` must be a string, got {prefix!r}.")
    return {
        "id": read_name(row, "id") or str(number),
        "group": read_name(row, "group"),
        "prefix": prefix,
        "suffixes": read_accepted(row, "suffix", asks_for_objects(prefix)),
    }


def asks_for_objects(prefix: object) -> bool:
    """Return whether an empty answer is valid: there is no such object."""
    return isinstance(prefix, str) and prefix.split(maxsplit=1)[:1] in (["detect"], ["segment"])


def read_name(row: Record, key: str) -> str | None:
    """Return an id or a group, a text or a number, as a text; None if it is missing.

    Raises:
        UserError: it holds something else.
    """
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise UserError(f"{row.where}: `{key}` must be a text or a number, got {value!r}.")
    return None if value is None else str(value)


def read_accepted(row: Record, key: str, nothing: bool = False) -> list[str]:
    """Return the accepted texts under a key: a text, a number, an object as JSON, or a list of these.

    Args:
        row: the object.
        key: its key.
        nothing: an empty text is a valid answer: there is no such object.

    Raises:
        UserError: it holds something else, or nothing, or a text is blank.
    """
    value = row[key]
    values = value if isinstance(value, list) else [value]
    texts = [str(item) if is_number(item) else item for item in values]
    texts = [
        json.dumps(item, ensure_ascii=False) if isinstance(item, dict) and item else item for item in texts
    ]
    if not _is_texts(texts):
        raise UserError(
            f"{row.where}: `{key}` must be a string or a list of accepted strings, got {value!r}."
        )
    return check_texts(texts, key, row.where, nothing)


def check_texts(texts: list[str], key: str, where: str, nothing: bool = False) -> list[str]:
    """Return accepted texts.

    Args:
        texts: one or more.
        key: the key or turn that has them, for the error message.
        where: file and place, for the error message.
        nothing: as in `read_accepted`.

    Raises:
        UserError: one is blank.
    """
    if not all(text.strip() for text in texts) and not (nothing and texts == [""]):
        raise UserError(
            f"{where}: `{key}` has an empty text: {texts!r}. Write the answer, or leave the row out. Only "
            "a prefix that begins with `detect` or `segment` may have an empty answer: no such object."
        )
    return list(texts)


def place_images(
    image: object, folders: Path | Sequence[Path], several: bool, where: str
) -> dict[str, object]:
    """Return `images`, or `image` with its `width` and `height`.

    Args:
        image: name of a file, or a list of them.
        folders: the folder of the files, or several that are tried in order.
        several: return `images`, also for one.
        where: file and place, for the error message.

    Raises:
        UserError: an image is not named by a text, or cannot be read.
    """
    if several:
        names = image if isinstance(image, list) else [image]
        if not _is_texts(names):
            raise UserError(f"{where}: `image` must be a file or a list of files, got {image!r}.")
        return {"images": [measure_image(name, folders, where)[0] for name in names]}
    path, (height, width) = measure_image(image, folders, where)
    return {"image": path, "width": width, "height": height}


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
