"""CVAT's own XML: `annotations.xml` and `images/`."""

from pathlib import Path

from finetune.data.layouts.splits import find_files, group_files
from finetune.data.layouts.voc import begins_with


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> XML file of an export; empty if it is not CVAT's.

    Raises:
        UserError: two files may be the same split.
    """
    if path.is_file():
        return {"train": str(path)} if path.suffix.lower() == ".xml" and _is_cvat(path) else {}
    return group_files(filter(_is_cvat, find_files(path, ".xml")), path)


def _is_cvat(file: Path) -> bool:
    return begins_with(file, "<annotations>")


def find_image_folders(file: Path) -> list[Path]:
    """Return the folders where the images of a file may be."""
    images = file.parent / "images"
    inside = [folder for folder in (images / "default", images / "train") if folder.is_dir()]
    return [folder for folder in (images, file.parent, *inside) if folder.is_dir()]
