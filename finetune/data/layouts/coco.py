"""COCO's JSON as Roboflow, Label Studio, CVAT, FiftyOne and COCO itself lay it out."""

from pathlib import Path

from finetune.data.layouts.peek import peek_json
from finetune.data.layouts.splits import find_files, group_files, name_split

_IMAGE_FOLDERS = ("", "images", "data", "JPEGImages")


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> JSON file of an export; empty if it is not COCO's.

    `train/_annotations.coco.json` (Roboflow), `annotations/instances_default.json` (CVAT, COCO),
    `result.json` (Label Studio), `labels.json` (FiftyOne), or any other name.

    Raises:
        UserError: two files may be the same split.
    """
    if path.is_file():
        return {"train": str(path)} if is_coco(path) else {}
    files = [file for file in find_files(path, ".json", below=("annotations",)) if is_coco(file)]
    # COCO's own releases have captions and keypoints of the same images next to them.
    instances = [file for file in files if file.name.startswith("instances_")]
    return group_files(instances or files, path)


def is_coco(file: Path) -> bool:
    """Return whether a file has `images` with file names, and annotations of objects."""
    if file.suffix.lower() != ".json" or (peek := peek_json(file)) is None or peek.kind != "object":
        return False
    image, annotation = peek.first.get("images"), peek.first.get("annotations")
    named = isinstance(image, dict) and "file_name" in image
    boxes = isinstance(annotation, dict) and not {"bbox", "segmentation"}.isdisjoint(annotation)
    return (named and annotation is None) or boxes


def find_image_folders(file: Path) -> list[Path]:
    """Return the folders where the images of a file may be, the likeliest first."""
    top = file.parent.parent if file.parent.name == "annotations" else file.parent
    words = file.stem.removeprefix("instances_")
    folders = [folder / name for folder in dict.fromkeys((file.parent, top)) for name in _IMAGE_FOLDERS]
    folders += [top / "images" / words, top / words, top / "images" / "default"]
    if split := name_split(file.stem):
        folders += [top / split, top / "images" / split]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
