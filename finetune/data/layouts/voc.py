"""Pascal VOC's XML files as VOC itself, Roboflow, CVAT and Label Studio lay them out."""

from pathlib import Path

from finetune.data.layouts.splits import group_files, list_folder, split_folders

IMAGE_FOLDERS = ("JPEGImages", "images")
"""Folders of images next to `Annotations`."""


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> folder, or list of images; empty if it is not VOC's.

    XML files next to the images, in `train/`, `valid/` and `test/` (Roboflow); or `Annotations/` with lists
    in `ImageSets/Main/` (VOC, CVAT), or without them (Label Studio).

    Raises:
        UserError: two lists may be the same split.
    """
    if path.is_file():
        return {"train": str(path)} if path.suffix == ".txt" and path.parent.name == "Main" else {}
    if _holds_voc(path / "Annotations"):
        lists = [file for file in list_folder(path / "ImageSets" / "Main") if file.suffix == ".txt"]
        # `trainval` is both, and `cat_train` has the images of one class.
        named = [file for file in lists if "_" not in file.stem and file.stem != "trainval"]
        return group_files(named, path) if len(named) > 1 else {"train": str(path)}
    folders = [folder for folder in split_folders(path) if _is_split(folder)]
    if folders:
        return group_files(folders, path)
    return {"train": str(path)} if _holds_voc(path) else {}


def _is_split(folder: Path) -> bool:
    return _holds_voc(folder) or _holds_voc(folder / "Annotations")


def _holds_voc(folder: Path) -> bool:
    """Return whether the first XML file of a folder has annotations of one image."""
    first = next((file for file in list_folder(folder) if file.suffix.lower() == ".xml"), None)
    return first is not None and begins_with(first, "<annotation>")


def begins_with(file: Path, tag: str) -> bool:
    """Return whether the first element of an XML file is this tag."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            return tag in stream.read(2000)
    except OSError:
        return False
