"""COCO's JSON: `images`, `annotations` and `categories`, with boxes, polygons and run lengths."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune.data.annotations import Coco
from finetune.data.formats.splits import find_image_dirs, find_split_files, load_files
from finetune.data.images import check_size, measure_image
from finetune.data.layouts.coco import find_image_folders, find_splits
from finetune.data.objects import Note, build_object, build_row, check_label, name_class, object_features
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import read_record
from finetune.data.reading.record import Record
from finetune.data.rows import Row, Splits
from finetune.errors import UserError
from finetune.example import SceneObject

FEATURES = object_features()

Key = int | str | float
"""Type of an id: COCO has whole numbers, other programs write texts too."""


def load_coco(options: Coco) -> Splits:
    """Read the files of both splits, or hold out a share of `train`.

    A split is a JSON file; or a folder with one, as Roboflow, Label Studio, CVAT and COCO itself have it.
    """
    files = find_split_files(options, find_splits, "a COCO JSON such as _annotations.coco.json")
    return load_files(read_coco, FEATURES, options, files, clip=options.clip)


def read_coco(faults: Faults, file: str, image_dir: str | None, clip: bool) -> Iterator[Row]:
    """Yield a row for every image; see `read_instances`."""
    folders = find_image_dirs(file, image_dir, find_image_folders)
    return read_instances(faults, file, folders, faults.note if clip else None)


def read_instances(
    faults: Faults, file: str, folders: Path | Sequence[Path], clip: Note | None = None
) -> Iterator[Row]:
    """Yield a row for every image that the file lists, including those without objects.

    Ids may be any numbers or texts; `area`, `iscrowd`, `segmentation` and the images' sizes may be missing.

    Args:
        faults: what to do with an image or an annotation that cannot be used.
        file: the JSON file; it must fit in memory.
        folders: folder of the images, or several where each may be.
        clip: as in `build_object`.
    """
    content = read_record(Path(file))
    images = _index(faults, content, "images", "image")
    categories = _index(faults, content, "categories", "category")
    names = {}
    for key, category in categories.items():
        with faults.skipping():
            names[key] = check_label(category["name"], category.where)
    annotations: dict[Key, list[Record]] = {key: [] for key in images}
    for annotation in _index(faults, content, "annotations", "annotation").values():
        with faults.skipping():
            image_id = _read_key(annotation, "image_id")
            if image_id not in images:
                raise UserError(f"{annotation.where}: there is no image {image_id} in `images`.")
            annotations[image_id].append(annotation)
    for key, image in images.items():
        with faults.skipping():
            path, size = measure_image(image["file_name"], folders, image.where)
            check_size((image.get("height"), image.get("width")), size, image.where)
            objects = _read_objects(faults, annotations[key], names, size, clip)
            yield build_row(str(key), path, size, objects, image.where)


def _index(faults: Faults, content: Record, kind: str, name: str) -> dict[Key, Record]:
    """Return the items of `images`, `annotations` or `categories` by their ids."""
    listed = content[kind]
    if not isinstance(listed, list):
        raise UserError(f"{content.where}: `{kind}` must be a list, got {type(listed).__name__}.")
    items: dict[Key, Record] = {}
    for number, item in enumerate(listed, 1):
        with faults.skipping():
            key = _read_key(Record(item, f"{content.where}: {name} number {number}"), "id")
            if key in items:
                raise UserError(f"{content.where}: {name} id {key} is duplicated; ids must be unique.")
            items[key] = Record(item, f"{content.where}: {name} {key}")
    return items


def _read_key(item: Record, key: str) -> Key:
    value = item[key]
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        raise UserError(f"{item.where}: `{key}` must be a number or a text, got {str(value)[:80]!r}.")
    return value


def _read_objects(
    faults: Faults,
    annotations: Sequence[Record],
    names: Mapping[Key, str],
    size: tuple[int, int],
    clip: Note | None,
) -> list[SceneObject]:
    objects = []
    for annotation in annotations:
        with faults.skipping():
            objects.append(
                build_object(
                    name_class(annotation["category_id"], names, annotation.where, "category"),
                    annotation["bbox"],
                    size,
                    annotation.where,
                    layout="xywh",
                    segmentation=annotation.get("segmentation"),
                    area=annotation.get("area"),
                    iscrowd=0 if annotation.get("iscrowd") is None else annotation["iscrowd"],
                    clip=clip,
                )
            )
    return objects
