"""Folders of images with a `metadata` file."""

from pathlib import Path

from finetune.data.layouts.splits import group_files, split_folders

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> folder with a metadata file; empty if there is none."""
    if path.is_file():
        return {"train": str(path)} if path.name in METADATA else {}
    folders = [folder for folder in split_folders(path) if find_metadata(folder)]
    if folders:
        return group_files(folders, path)
    return {"train": str(path)} if find_metadata(path) else {}


def find_metadata(folder: Path) -> list[str]:
    """Return the names of the metadata files of a folder."""
    return [name for name in METADATA if (folder / name).is_file()]
