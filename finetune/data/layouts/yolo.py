"""YOLO as Roboflow, Ultralytics, Label Studio and CVAT lay it out."""

from pathlib import Path

import yaml

from finetune.data.images import IMAGE_SUFFIXES
from finetune.data.layouts.splits import group_files, list_folder

CLASS_LISTS = ("classes.txt", "obj.names")
"""Files with the name of a class in each line, where there is no data.yaml."""
_KEYS = {"train": "train", "validation": "val", "test": "test"}
_PARENTS = 3


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> what `dataset.train=` or `dataset.validation=` takes for it; empty if it is not YOLO.

    A `data.yaml` stands for `train` and `validation`, which it names itself; for `test`, the folder of its
    images. Without it: the lists of CVAT's YOLO 1.1 (`train.txt`, `valid.txt` next to `obj.names`), or a
    folder with `images/`, `labels/` and `classes.txt` (Label Studio).
    """
    if path.is_file():
        return _splits_of_yaml(path) if path.suffix.lower() in {".yaml", ".yml"} else {}
    if (file := find_yaml(path)) is not None:
        return _splits_of_yaml(file)
    if not any((path / name).is_file() for name in CLASS_LISTS):
        return {}
    lists = [
        path / f"{name}.txt" for name in ("train", "valid", "test") if (path / f"{name}.txt").is_file()
    ]
    if lists:
        return group_files(lists, path)
    return {"train": str(path)} if (path / "images").is_dir() or _holds_labels(path) else {}


def find_yaml(folder: Path) -> Path | None:
    """Return the YAML file of a folder that names classes; `data.yaml` first."""
    files = [file for file in list_folder(folder) if file.suffix.lower() in {".yaml", ".yml"}]
    files.sort(key=lambda file: file.name.lower() not in {"data.yaml", "data.yml"})
    return next((file for file in files if "names" in read_yaml(file)), None)


def find_classes(place: Path) -> Path | None:
    """Return the file with the classes of a folder or list of images: in it, or in a folder above."""
    folder = place if place.is_dir() else place.parent
    for top in (folder, *folder.absolute().parents[:_PARENTS]):
        named = [top / name for name in CLASS_LISTS if (top / name).is_file()]
        if (file := find_yaml(top)) is not None or named:
            return file or named[0]
    return None


def read_yaml(file: Path) -> dict[str, object]:
    """Return the content of a YAML file with every value as text; empty if it cannot be read."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _splits_of_yaml(file: Path) -> dict[str, str]:
    content = read_yaml(file)
    if "names" not in content:
        return {}
    splits = {}
    for split, key in _KEYS.items():
        entry = content.get(key)
        # Roboflow names all three, also those that the export does not have.
        place = _find_entry(entry, content, file) if isinstance(entry, str) and entry else None
        if place is not None or (isinstance(entry, list) and split != "test"):
            splits[split] = str(place if split == "test" else file)
    return splits


def _find_entry(entry: str, content: dict[str, object], file: Path) -> Path | None:
    """Return the folder or list of images that a data.yaml names, if there is one."""
    roots = [file.parent / str(content.get("path") or ""), file.parent]
    spelled = (entry, entry.removeprefix("../"))
    return next((root / name for root in roots for name in spelled if (root / name).exists()), None)


def _holds_labels(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in list_folder(folder))
