"""CSV, TSV, flat JSON and parquet, by the names of their columns."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets import Features

from finetune.data.cache import PLACE
from finetune.data.formats.jsonl import asks_for_objects, check_texts
from finetune.data.formats.splits import find_image_dirs, find_split_files, load_files
from finetune.data.hub_rows import LISTS as HUB_LISTS
from finetune.data.hub_rows import to_index
from finetune.data.images import Picture, resolve_image
from finetune.data.layouts.texts import find_image_folders, find_tables
from finetune.data.options import Table
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.record import Record
from finetune.data.reading.tables import holds_bytes, list_columns, read_records
from finetune.data.rows import PICTURE, Row, Splits, text_features
from finetune.errors import UserError

LISTS = (*HUB_LISTS, "suffixes")
"""Our columns that are lists of texts."""
_SIZE = ("width", "height")


def load_table(options: Table) -> Splits:
    """Read the tables of both splits, which have the same columns, or hold out a share of `train`.

    Every column keeps its name, and its values are unchanged texts: `007` and `NA` stay as they are.
    `suffix` is renamed to `suffixes`. `answers`, `captions`, `choices` and `suffixes` become lists; with
    `choices`, `answer` is the index of the right one (from 0, or a letter). `image` is a path; in parquet
    it may be the image itself. `width` and `height` are those of the image.
    """
    files = find_split_files(
        options, find_tables, "a CSV, TSV, JSON or parquet file with a column of images"
    )
    file = files.train[0]
    with reading(file):
        names, inside = _find_columns(file, options.columns)
    return load_files(
        read_table,
        _build_features(names, inside),
        options,
        files,
        columns=names,
        separator=options.separator,
        inside=inside,
    )


def _find_columns(file: str, columns: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Return our name -> the file's of every column, and whether images are inside the rows."""
    names = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    for name in list_columns(file):
        if name not in names.values():
            names.setdefault("suffixes" if name == "suffix" else name, name)
    names.setdefault("image", "image")
    return names, holds_bytes(file, names["image"])


def _build_features(names: Mapping[str, str], inside: bool) -> Features:
    lists = tuple(name for name in names if name in LISTS)
    numbers = ("answer", *_SIZE) if {"choices", "answer"} <= names.keys() else _SIZE
    features = text_features(*names, lists=lists, numbers=numbers)
    return Features({**features, "image": PICTURE}) if inside else features


def read_table(
    faults: Faults,
    file: str,
    image_dir: str | None,
    columns: Mapping[str, str],
    separator: str | None,
    inside: bool,
) -> Iterator[Row]:
    """Yield the rows under our names.

    Args:
        faults: what to do with a row that cannot be used.
        file: the table.
        image_dir: folder of the images; None: the folder of the file.
        columns: our name -> the file's, of every column.
        separator: as in `load_table`.
        inside: images are inside the rows.
    """
    folders = find_image_dirs(file, image_dir, find_image_folders)
    present = list_columns(file)
    for ours, theirs in columns.items():
        if theirs not in present:
            raise UserError(
                f"{file} has no column `{theirs}` (dataset.columns.{ours}); it has: {', '.join(present)}."
            )
    for number, record in read_records(faults, file):
        with faults.skipping():
            row: dict[str, object] = {"id": None, "group": None, PLACE: record.where}
            for ours, theirs in columns.items():
                row[ours] = _convert(ours, record[theirs], columns, separator, record)
            image = _find_image(record[columns["image"]], inside, folders, record.where)
            height, width = Picture(image, record.where).size()
            row |= {"id": row["id"] or str(number), "image": image, "width": width, "height": height}
            yield row


def _convert(
    name: str, value: object, columns: Mapping[str, str], separator: str | None, record: Record
) -> object:
    where = record.where
    if name == "image":
        return None
    if name == "answer" and "choices" in columns:
        return to_index(value, where)
    if name not in LISTS:
        text = to_text(value, where)
        return text if name != "answer" or text is None else check_texts([text], name, where)[0]
    if value is None:
        return []
    nothing = name == "suffixes" and asks_for_objects(record.get(columns.get("prefix", "")))
    if isinstance(value, str) and separator is not None:
        return check_texts([part.strip() for part in value.split(separator)], name, where, nothing)
    values = value if isinstance(value, list) else [value]
    if any(item is None or isinstance(item, list | dict) for item in values):
        raise UserError(
            f"{where}: `{name}` must be a text or a list of texts, got {str(value)[:80]}. Answers that are "
            "objects with an `answer` are read with dataset=hub."
        )
    texts = [to_text(item, where) for item in values]
    return check_texts([text for text in texts if text is not None], name, where, nothing)


def to_text(value: object, where: str) -> str | None:
    """Return a value of a parquet column as text: numbers as in Python, lists and structs as JSON.

    Raises:
        UserError: it is bytes.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        raise UserError(f"{where}: a value is {len(value)} bytes, expected text. Images go to `image`.")
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _find_image(value: object, inside: bool, folders: list[Path], where: str) -> str | dict[str, object]:
    if not inside:
        return resolve_image(value, folders, where)
    image = value if isinstance(value, dict) else {"bytes": value}
    data, path = image.get("bytes"), image.get("path")
    if data is None:
        path = resolve_image(path or "", folders, where)
    return {"bytes": data, "path": path}
