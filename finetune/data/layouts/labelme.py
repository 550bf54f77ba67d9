"""labelme: one JSON file per image, next to it or in a folder next to the images."""

from itertools import islice
from pathlib import Path

from finetune.data.layouts.splits import group_files, list_folder, split_folders

_LOOKED_AT = 3
"""JSON files of a folder that are opened; others may be in it too."""
_HEAD = 1 << 16


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> folder of JSON files; empty if they are not labelme's."""
    if path.is_file():
        return {"train": str(path)} if is_labelme(path) else {}
    folders = [folder for folder in split_folders(path) if _holds_labelme(folder)]
    if folders:
        return group_files(folders, path)
    apart = [folder for folder in list_folder(path) if _has_annotations_alone(folder)]
    return {"train": str(path)} if _holds_labelme(path) or len(apart) == 1 else {}


def _has_annotations_alone(folder: Path) -> bool:
    """Return whether a folder has JSON files whose images are in another one (`labelme --output`)."""
    return _holds_labelme(folder) and all(file.suffix.lower() == ".json" for file in list_folder(folder))


def _holds_labelme(folder: Path) -> bool:
    files = (file for file in list_folder(folder) if file.suffix.lower() == ".json")
    return any(map(is_labelme, islice(files, _LOOKED_AT)))


def is_labelme(file: Path) -> bool:
    """Return whether a file has the shapes of one image."""
    if file.suffix.lower() != ".json":
        return False
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            head = stream.read(_HEAD)  # not parsed: the image inside may be megabytes
    except OSError:
        return False
    return head.lstrip().startswith("{") and all(f'"{key}"' in head for key in ("version", "shapes"))
