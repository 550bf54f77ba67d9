"""COCO's JSON: `images`, `annotations` and `categories`, with boxes, polygons and run lengths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data.formats.splits import describe_folder, find_file, find_image_dir, load_files
from finetune.data.images import check_size, read_size, resolve_image
from finetune.data.objects import build_object, build_row, check_label, name_class, object_features
from finetune.data.options import Coco
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import Record, read_json
from finetune.data.rows import Splits
from finetune.errors import UserError

FEATURES = object_features()

_IN_FOLDER = "_annotations.coco.json"


def load_coco(options: Coco) -> Splits:
    """Read the files of both splits, or hold out a share of `train`.

    A split is a JSON file, or a folder with `_annotations.coco.json`, as Roboflow exports.

    Raises:
        UserError: names the file and the image or annotation.
    """
    files = replace(
        options,
        train=_find_in_folder(options.train, "train"),
        validation=_find_in_folder(options.validation, "validation"),
    )
    return load_files(read_coco, FEATURES, files)


def _find_in_folder(file: str | None, option: str) -> str | None:
    if file is None or not Path(find_file(file, option, folder=True)).is_dir():
        return file
    found = Path(file) / _IN_FOLDER
    if not found.is_file():
        raise UserError(
            f"{file} (dataset.{option}) has no {_IN_FOLDER}. {describe_folder(Path(file))} Name its JSON "
            "file, and the folder of its images with dataset.image_dir=FOLDER."
        )
    return str(found)


def read_coco(faults: Faults, file: str, image_dir: str | None) -> Iterator[dict[str, Any]]:
    """Yield a row for every picture."""
    return read_instances(faults, file, find_image_dir(file, image_dir))


def read_instances(faults: Faults, file: str, image_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for every picture that the file lists, those without objects among them.

    Ids of categories may be any; `area`, `iscrowd`, `segmentation` and the pictures' sizes may be missing.

    Args:
        faults: what to do with a picture or an annotation that cannot be used.
        file: the JSON file; it must fit in memory.
        image_dir: folder of the pictures.

    Raises:
        UserError: names the file and the image or annotation.
    """
    content = Record(read_json(Path(file)), file)
    images = _index(faults, content, "images", "image")
    categories = _index(faults, content, "categories", "category")
    names = {}
    for key, category in categories.items():
        with faults.skipping():
            names[key] = check_label(category["name"], category.where)
    annotations: dict[Any, list[Record]] = {key: [] for key in images}
    for one in _index(faults, content, "annotations", "annotation").values():
        with faults.skipping():
            if _read_key(one, "image_id") not in images:
                raise UserError(f"{one.where}: there is no image {one['image_id']} in `images`.")
            annotations[one["image_id"]].append(one)
    for key, image in images.items():
        with faults.skipping():
            path = resolve_image(image["file_name"], image_dir, image.where)
            size = read_size(path, image.where)
            check_size((image.get("height"), image.get("width")), size, image.where)
            yield build_row(str(key), path, size, _read_objects(faults, annotations[key], names, size))


def _index(faults: Faults, content: Record, kind: str, one: str) -> dict[Any, Record]:
    """Return the items of `images`, `annotations` or `categories` by their ids."""
    if not isinstance(content[kind], list):
        raise UserError(f"{content.where}: `{kind}` must be a list, got {type(content[kind]).__name__}.")
    found: dict[Any, Record] = {}
    for number, item in enumerate(content[kind], 1):
        with faults.skipping():
            key = _read_key(Record(item, f"{content.where}: {one} number {number}"), "id")
            if key in found:
                raise UserError(f"{content.where}: {one} id {key} stands twice; ids must differ.")
            found[key] = Record(item, f"{content.where}: {one} {key}")
    return found


def _read_key(item: Record, key: str) -> Any:
    value = item[key]
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        raise UserError(f"{item.where}: `{key}` must be a number or a text, got {str(value)[:80]!r}.")
    return value


def _read_objects(
    faults: Faults, annotations: Sequence[Record], names: Mapping[Any, str], size: tuple[int, int]
) -> list[dict[str, Any]]:
    objects = []
    for one in annotations:
        with faults.skipping():
            objects.append(
                build_object(
                    name_class(one["category_id"], names, one.where, "category"),
                    one["bbox"],
                    size,
                    one.where,
                    layout="xywh",
                    segmentation=one.get("segmentation"),
                    area=one.get("area"),
                    iscrowd=0 if one.get("iscrowd") is None else one["iscrowd"],
                )
            )
    return objects
