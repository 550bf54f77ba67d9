"""CSV, TSV and parquet, by the names of their columns."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Features, Value

from finetune.data.formats.jsonl import asks_for_objects, check_texts
from finetune.data.formats.splits import find_file, find_image_dir, load_files
from finetune.data.hub_rows import LISTS, to_index
from finetune.data.images import read_size, resolve_image
from finetune.data.options import Table
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.json import Record
from finetune.data.reading.tables import holds_bytes, list_columns, read_records
from finetune.data.rows import PICTURE, Splits, text_features
from finetune.errors import UserError

_LISTS = (*LISTS, "suffixes")


def load_table(options: Table) -> Splits:
    """Read the tables of both splits, which have the same columns, or hold out a share of `train`.

    Every column is kept under its own name as text, and nothing else is made of it: `007` and `NA` stay
    what they are. `suffix` is kept as `suffixes`. `answers`, `captions`, `choices` and `suffixes` become
    lists; next to `choices`, `answer` is the index of the right one (from 0, or a letter). `image` is a
    path; in parquet it may hold the image itself. `width` and `height` are those of the image.

    Raises:
        UserError: names the file and the row, or the columns that there are.
    """
    file = find_file(options.train)
    with reading(file):
        names, inside = _find_columns(file, options.columns)
    return load_files(
        read_table,
        _build_features(names, inside),
        options,
        columns=names,
        separator=options.separator,
        inside=inside,
    )


def _find_columns(file: str, columns: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Return our name -> the file's of every column, and whether pictures lie in the rows."""
    names = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    for name in list_columns(file):
        if name not in names.values():
            names.setdefault("suffixes" if name == "suffix" else name, name)
    names.setdefault("image", "image")
    return names, holds_bytes(file, names["image"])


def _build_features(names: Mapping[str, str], inside: bool) -> Features:
    features = {**text_features(*names, lists=tuple(name for name in names if name in _LISTS))}
    if "choices" in names and "answer" in names:
        features["answer"] = Value("int32")
    if inside:
        features["image"] = PICTURE
    return Features({**features, "width": Value("int32"), "height": Value("int32")})


def read_table(
    faults: Faults,
    file: str,
    image_dir: str | None,
    columns: Mapping[str, str],
    separator: str | None,
    inside: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the rows under our names.

    Args:
        faults: what to do with a row that cannot be used.
        file: the table.
        image_dir: folder of the pictures; null: the file's own.
        columns: our name -> the file's, of every column.
        separator: as in `load_table`.
        inside: pictures lie in the rows.

    Raises:
        UserError: names the file and the row, or the columns that there are.
    """
    folder = find_image_dir(file, image_dir)
    there = list_columns(file)
    for ours, theirs in columns.items():
        if theirs not in there:
            other = next((mark for mark in ";\t|" if len(there) == 1 and mark in there[0]), None)
            hint = f" Is {other!r} between the columns? Save it with commas." if other else ""
            raise UserError(
                f"{file} has no column `{theirs}` (dataset.columns.{ours}); it has: {', '.join(there)}."
                f"{hint}"
            )
    for number, record in read_records(faults, file):
        with faults.skipping():
            row: dict[str, Any] = {"id": None, "group": None}
            for ours, theirs in columns.items():
                row[ours] = _convert(ours, record[theirs], columns, separator, record)
            image = _find_image(record[columns["image"]], inside, folder, record.where)
            height, width = read_size(image, record.where)
            row |= {"id": row["id"] or str(number), "image": image, "width": width, "height": height}
            yield row


def _convert(
    name: str, value: Any, columns: Mapping[str, str], separator: str | None, record: Record
) -> Any:
    where = record.where
    if name == "image":
        return None
    if name == "answer" and "choices" in columns:
        return to_index(value, where)
    if name not in _LISTS:
        text = to_text(value, where)
        return text if name != "answer" or text is None else check_texts([text], name, where)[0]
    if value is None:
        return []
    nothing = name == "suffixes" and asks_for_objects(record.get(columns.get("prefix", "")))
    if isinstance(value, str) and separator is not None:
        return check_texts([part.strip() for part in value.split(separator)], name, where, nothing)
    values = value if isinstance(value, list) else [value]
    if any(one is None or isinstance(one, list | dict) for one in values):
        raise UserError(
            f"{where}: `{name}` must be a text or a list of texts, got {str(value)[:80]}. Answers that are "
            "objects with an `answer` are read with dataset=hub."
        )
    texts = [to_text(one, where) for one in values]
    return check_texts([text for text in texts if text is not None], name, where, nothing)


def to_text(value: Any, where: str) -> str | None:
    """Write a value of a parquet column as text: numbers as in Python, lists and structs as JSON.

    Raises:
        UserError: it is bytes.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        raise UserError(f"{where}: a value is {len(value)} bytes, expected text. Pictures go to `image`.")
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _find_image(value: Any, inside: bool, folder: Path, where: str) -> str | dict[str, Any]:
    if not inside:
        return resolve_image(value, folder, where)
    picture = value if isinstance(value, dict) else {"bytes": value}
    data, path = picture.get("bytes"), picture.get("path")
    if data is None:
        path = resolve_image(path or "", folder, where)
    return {"bytes": data, "path": path}
