"""Folders of images: with a `metadata` file, or with a folder for each class."""

from itertools import islice
from pathlib import Path

from finetune.data.images import IMAGE_SUFFIXES
from finetune.data.layouts.splits import group_files, list_folder, name_split, split_folders

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

_ANNOTATIONS = {".json", ".jsonl", ".ndjson", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".parquet", ".arrow"}
_LOOKED_AT = 20
"""Files of a folder that are looked at: images of one class are many, annotations next to them too."""


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> folder with a metadata file, or with class folders; empty if there is none."""
    if path.is_file():
        return {"train": str(path)} if path.name in METADATA else {}
    for holds in (find_metadata, find_class_folders):
        folders = [folder for folder in split_folders(path) if holds(folder)]
        if folders:
            return group_files(folders, path)
        if holds(path):
            return {"train": str(path)}
    return {}


def find_metadata(folder: Path) -> list[str]:
    """Return the names of the metadata files of a folder."""
    return [name for name in METADATA if (folder / name).is_file()]


def find_class_folders(folder: Path) -> list[Path]:
    """Return the subfolders of a folder that has one with images for each of two or more classes.

    Images next to annotations are not meant: neither the folder nor its subfolders have any.
    """
    inside = list_folder(folder)
    folders = [path for path in inside if path.is_dir() and name_split(path.name) is None]
    classes = [path for path in folders if _holds_images_alone(path)]
    alone = not any(path.suffix.lower() in _ANNOTATIONS for path in inside)
    return classes if alone and len(classes) > 1 and len(classes) == len(folders) else []


def _holds_images_alone(folder: Path) -> bool:
    endings = {path.suffix.lower() for path in islice(list_folder(folder), _LOOKED_AT)}
    return not endings.isdisjoint(IMAGE_SUFFIXES) and endings.isdisjoint(_ANNOTATIONS)
