"""COCO's JSON of instances: images, annotations and categories in one file."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import pick, read_json
from finetune.data.objects import build_object
from finetune.errors import UserError


def read_instances(faults: Faults, file: str, image_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield one row an image, also those without annotations, in the order of the file.

    Args:
        faults: what to do with an image or an annotation that cannot be used.
        file: `{"images": [...], "annotations": [...], "categories": [...]}`.
        image_dir: folder of the images' `file_name`.

    Raises:
        UserError: names the file and the image or annotation.
    """
    found = pick(read_json(Path(file)), file, "images", "annotations", "categories")
    images = _index(faults, found[0], f"{file}: images", "file_name", "width", "height")
    annotations = _index(faults, found[1], f"{file}: annotations", "image_id", "category_id", "bbox")
    categories = _index(faults, found[2], f"{file}: categories", "name")
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, item in annotations.items():
        with faults.skipping():
            where = f"{file}: annotation {number}"
            if item["image_id"] not in images:
                raise UserError(f"{where}: there is no image {item['image_id']} in the file.")
            if item["category_id"] not in categories:
                raise UserError(f"{where}: there is no category {item['category_id']} in the file.")
            label = categories[item["category_id"]]["name"]
            objects[item["image_id"]].append(_convert(item, label, images[item["image_id"]], where))
    for number, item in images.items():
        with faults.skipping():
            yield {
                "id": str(number),
                "group": None,
                "image": resolve_image(item["file_name"], image_dir, f"{file}: image {number}"),
                "width": item["width"],
                "height": item["height"],
                "objects": objects[number],
            }


def _convert(item: dict[str, Any], label: str, image: dict[str, Any], where: str) -> dict[str, Any]:
    if len(item["bbox"]) != 4:
        raise UserError(f"{where}: expected `bbox` to be x, y, width and height, got {item['bbox']!r}.")
    x, y, width, height = item["bbox"]
    return build_object(
        label,
        (x, y, x + width, y + height),
        (image["height"], image["width"]),
        where,
        segmentation=item.get("segmentation"),
        area=item.get("area"),
        iscrowd=item.get("iscrowd", 0),
    )


def _index(faults: Faults, items: list[Any], where: str, *keys: str) -> dict[int, dict[str, Any]]:
    """Return the items by `id`; one without its keys, and the second of an id, is a fault."""
    found: dict[int, dict[str, Any]] = {}
    for index, item in enumerate(items):
        with faults.skipping():
            number, *_ = pick(item, f"{where}[{index}]", "id", *keys)
            if number in found:
                raise UserError(f"{where}[{index}]: id {number} stands twice; ids must differ.")
            found[number] = item
    return found
