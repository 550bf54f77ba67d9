"""One's own pictures: one JSON object a line, with `image`, `prefix` and `suffix`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.images import resolve_image
from finetune.data.rows import Splits, build_rows, hold_out, text_features
from finetune.errors import UserError


def load_jsonl(
    train: str,
    validation: str | None,
    validation_fraction: float | None,
    image_dir: str | None,
) -> Splits:
    """Read the files of both splits, or hold out a share of `train`.

    Args:
        train: the file to train on.
        validation: the file to evaluate on.
        validation_fraction: share of the pictures of `train`, where there is no such file.
        image_dir: folder of the pictures; null: each file's own.

    Raises:
        UserError: names the file and the line.
    """
    rows = _load_file(train, image_dir)
    if validation is not None:
        return Splits(rows, _load_file(validation, image_dir))
    assert validation_fraction is not None, "checks.py asks for one of the two"
    return hold_out(rows, validation_fraction)


def _load_file(file: str, image_dir: str | None) -> Any:
    path = Path(file)
    if not path.is_file():
        raise UserError(f"No file {file}. Paths are relative to the current folder.")
    folder = Path(image_dir) if image_dir else path.parent
    if not folder.is_dir():
        raise UserError(f"No folder {folder}; pass dataset.image_dir=FOLDER.")
    rows = build_rows(
        _generate, text_features("prefix", "suffixes"), file=file, image_dir=str(folder.resolve())
    )
    if len(rows) == 0:
        raise UserError(f"{file} is empty: expected one JSON object a line.")
    return rows


def _generate(file: str, image_dir: str, stamp: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for every line that is not blank."""
    seen: set[str] = set()
    with Path(file).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            row = _parse(line, where)
            row_id = str(row.get("id", number))
            if row_id in seen:
                raise UserError(f"{where}: id `{row_id}` stands above already; ids must differ.")
            seen.add(row_id)
            yield {
                "id": row_id,
                "group": None if row.get("group") is None else str(row["group"]),
                "image": resolve_image(row["image"], Path(image_dir), where),
                "prefix": row["prefix"],
                "suffixes": row["suffix"],
            }


def _parse(line: str, where: str) -> dict[str, Any]:
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
    for key in ("image", "prefix"):
        if not isinstance(row[key], str):
            raise UserError(f"{where}: `{key}` must be a string, got {row[key]!r}.")
    suffix = [row["suffix"]] if isinstance(row["suffix"], str) else row["suffix"]
    if not isinstance(suffix, list) or not suffix or not all(isinstance(s, str) for s in suffix):
        raise UserError(
            f"{where}: `suffix` must be a string or a list of accepted strings, got {row['suffix']!r}."
        )
    return {**row, "suffix": suffix}
