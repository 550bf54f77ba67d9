"""Files of texts about images: pairs, conversations and flat tables, in JSON, JSON Lines, CSV or parquet.

The keys of the first row say which: names of files say nothing, for `_annotations.train.jsonl` may have
pairs or chat messages.
"""

from pathlib import Path

from finetune.data.layouts.hub import name_shards
from finetune.data.layouts.image_folder import METADATA
from finetune.data.layouts.label_studio import is_minimal, is_task
from finetune.data.layouts.peek import peek_json
from finetune.data.layouts.splits import find_files, group_files
from finetune.data.reading.tables import DELIMITERS, list_columns
from finetune.errors import UserError

JSON = (".json", ".jsonl", ".ndjson")
TABLES = (*DELIMITERS, ".parquet")
_TURNS = ("conversations", "conversation", "messages")
_IMAGES = ("image", "images", "image_path", "img", "file_name", "filename", "path", "picture", "photo")
"""Usual names of the column of images."""
_NOT_DATA = ("dataset_info.json", "notes.json", "info.json", "state.json", "dataset_dict.json")
"""Files of exports that are about the data."""


def find_pairs(path: Path) -> dict[str, str]:
    """Return split -> file with `image`, `prefix` and `suffix` (`dataset=jsonl`).

    Raises:
        UserError: two files may be the same split.
    """
    return _find(path, "jsonl")


def find_conversations(path: Path) -> dict[str, str]:
    """Return split -> file with turns: LLaVA, ms-swift, LLaMA-Factory, TRL (`dataset=conversations`).

    Raises:
        UserError: two files may be the same split.
    """
    return _find(path, "conversations")


def find_tables(path: Path, image: str | None = None) -> dict[str, str]:
    """Return split -> flat file with a column of images and other columns (`dataset=table`).

    Args:
        path: the export.
        image: column of the images; None: by its usual names.

    Raises:
        UserError: two files may be the same split.
    """
    return _find(path, "table", image)


def _find(path: Path, kind: str, image: str | None = None) -> dict[str, str]:
    if path.is_file():
        return {"train": str(path)} if find_kind(path, image) == kind else {}
    endings = JSON if kind != "table" else (*JSON, *TABLES)
    files = find_files(path, *endings, below=("dataset",))
    others = {*METADATA, *_NOT_DATA}
    files = [file for file in files if file.name not in others and not name_shards(file)]
    return group_files([file for file in files if find_kind(file, image) == kind], path)


def find_kind(file: Path, image: str | None = None) -> str | None:
    """Return `jsonl`, `conversations` or `table` for a file of texts; None for another one.

    Args:
        file: JSON, JSON Lines, CSV or parquet.
        image: column of the images; None: by its usual names.
    """
    row = read_first(file)
    if row is None or is_task(row) or is_minimal(row):
        return None
    if not row.keys().isdisjoint(_TURNS) or {"query", "response"} <= row.keys():
        return "conversations"
    pairs = ({"instruction", "output"}, {"prompt", "completion"})
    if any(pair <= row.keys() for pair in pairs) and not row.keys().isdisjoint(("image", "images")):
        return "conversations"
    if file.suffix.lower() in JSON and {"image", "prefix", "suffix"} <= row.keys():
        return "jsonl"
    has_images = image in row or find_image_column(row) is not None
    return "table" if len(row) > 1 and has_images else None


def find_image_column(row: dict[str, object]) -> str | None:
    """Return the column of images by its name."""
    by_name = {name.strip().lower().replace(" ", "_"): name for name in row}
    return next((by_name[name] for name in _IMAGES if name in by_name), None)


def read_first(file: Path) -> dict[str, object] | None:
    """Return the first object of a file of rows, or the names of its columns; None if it has no rows."""
    if file.suffix.lower() in JSON:
        peek = peek_json(file)
        return None if peek is None or peek.kind == "object" else peek.first
    try:
        return dict.fromkeys(list_columns(str(file)))
    except UserError:
        return None


def find_image_folders(file: Path) -> list[Path]:
    """Return the folders where the images of a file may be, the likeliest first."""
    places = (file.parent, file.parent / "images", file.parent.parent / "images")
    return [place for place in places if place.is_dir()]
