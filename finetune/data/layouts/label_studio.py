"""Label Studio's JSON and JSON-MIN; its other exports are read as the formats that they have."""

from pathlib import Path

from finetune.data.layouts.peek import peek_json
from finetune.data.layouts.splits import find_files, group_files

_MINIMAL = {"annotation_id", "annotator"}
"""Keys of every row of JSON-MIN."""


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> JSON file of an export; empty if it is not Label Studio's.

    Raises:
        UserError: two files may be the same split.
    """
    if path.is_file():
        return {"train": str(path)} if _is_label_studio(path) else {}
    return group_files(filter(_is_label_studio, find_files(path, ".json")), path)


def _is_label_studio(file: Path) -> bool:
    peek = peek_json(file) if file.suffix.lower() in {".json", ".jsonl"} else None
    if peek is None or peek.kind == "object":
        return False
    return is_task(peek.first) or is_minimal(peek.first)


def is_task(item: dict[str, object]) -> bool:
    """Return whether an object is a task with its annotations, as in the full JSON."""
    return isinstance(item.get("data"), dict) and not {"annotations", "completions"}.isdisjoint(item)


def is_minimal(item: dict[str, object]) -> bool:
    """Return whether an object is a task as in JSON-MIN."""
    return item.keys() >= _MINIMAL


def find_image_folders(file: Path) -> list[Path]:
    """Return the folders where the images of a file may be."""
    names = ("", "images", "upload", "media")
    return [folder for name in names if (folder := file.parent / name).is_dir()]
