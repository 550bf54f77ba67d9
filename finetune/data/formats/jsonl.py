"""One JSON object per line, with `image`, `prefix` and `suffix`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from finetune.data.cache import PLACE
from finetune.data.formats.splits import find_file, find_image_dir, load_files
from finetune.data.images import measure_image
from finetune.data.options import Jsonl
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.record import Record
from finetune.data.reading.tables import read_json_lines
from finetune.data.rows import PATHS, Row, Splits, text_features
from finetune.errors import UserError

FEATURES = text_features("prefix", lists=("suffixes",), numbers=("width", "height"))
FEATURES_OF_SEVERAL = text_features("prefix", lists=("suffixes",), image=PATHS)

_REMEMBERED = 1 << 14
"""Images that are not looked up again: many rows often share one."""


def load_jsonl(options: Jsonl) -> Splits:
    """Read the files of both splits, or hold out a share of `train`; the first row says how many images."""
    with reading(file := find_file(options.train)):
        first = next(read_json_lines(Faults(skip=True), file), None)
    several = first is not None and isinstance(first[1].get("image"), list)
    features = FEATURES_OF_SEVERAL if several else FEATURES
    return load_files(read_jsonl, features, options, several=several)


def read_jsonl(faults: Faults, file: str, image_dir: str | None, several: bool) -> Iterator[Row]:
    """Yield a row for every line that is not blank."""
    folder = find_image_dir(file, image_dir)
    placed: dict[str, dict[str, object]] = {}
    for number, row in read_json_lines(faults, file):
        with faults.skipping():
            texts, image = read_texts(row, number), repr(row["image"])
            if image not in placed:
                if len(placed) >= _REMEMBERED:
                    placed.clear()
                placed[image] = place_images(row["image"], folder, several, row.where)
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
    """Return the accepted texts under a key, which may hold one string or a list of them.

    Args:
        row: the object.
        key: its key.
        nothing: an empty text is a valid answer: there is no such object.

    Raises:
        UserError: it holds something else, or nothing, or a text is blank.
    """
    value = row[key]
    texts = [value] if isinstance(value, str) else value
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


def place_images(image: object, folder: Path, several: bool, where: str) -> dict[str, object]:
    """Return `images`, or `image` with its `width` and `height`.

    Args:
        image: name of a file, or a list of them.
        folder: the folder of the files.
        several: a list is expected.
        where: file and place, for the error message.

    Raises:
        UserError: a list was expected or not, or an image cannot be read.
    """
    if several:
        if not _is_texts(image):
            raise UserError(f"{where}: `image` must be a list of files as in the first row, got {image!r}.")
        return {"images": [measure_image(name, folder, where)[0] for name in image]}
    path, (height, width) = measure_image(image, folder, where)
    return {"image": path, "width": width, "height": height}


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
