"""An image folder: images, and a `metadata` file of JSON Lines, CSV or parquet that names them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from finetune.data.cache import PLACE
from finetune.data.formats import jsonl
from finetune.data.formats.jsonl import place_images, read_accepted, read_name, read_texts
from finetune.data.formats.splits import find_image_dir, find_inside, load_files
from finetune.data.images import measure_image
from finetune.data.objects import build_object, build_row, check_label, name_class, object_features
from finetune.data.options import ImageFolder
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.record import Record
from finetune.data.reading.tables import list_columns, read_records
from finetune.data.rows import Row, Splits, text_features
from finetune.errors import UserError
from finetune.example import SceneObject

FEATURES = {
    "pairs": jsonl.FEATURES,
    "objects": object_features(),
    "captions": text_features(lists=("captions",)),
}
"""The columns of the rows for each kind of metadata."""
NEEDED = {"pairs": ("prefix", "suffix"), "objects": ("objects",), "captions": ("text",)}
"""The columns of the metadata that determine the kind, besides `file_name`."""

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def load_image_folder(options: ImageFolder) -> Splits:
    """Read the metadata of both splits, or hold out a share of `train`.

    Besides `file_name`, the metadata has `prefix` and `suffix`; or `objects`, with the lists `bbox` (x, y,
    width, height in pixels) and `categories`; or `text`, the caption. The first row says which. Images
    that it does not name are not used; other columns are read with dataset=table.
    """
    found: dict[str, Any] = {
        option: find_inside(file, option, METADATA) for option, file in options.files()
    }
    with reading(found["train"]):
        kind = _find_kind(found["train"])
    files = replace(options, **found)
    return load_files(read_image_folder, FEATURES[kind], files, kind=kind, names=options.names)


def _find_kind(file: str) -> str:
    columns = list_columns(file)
    for kind, wanted in NEEDED.items():
        if set(wanted) <= set(columns):
            return kind
    raise UserError(
        f"{file}: expected `file_name` with `prefix` and `suffix`, `objects`, or `text`; its columns are: "
        f"{', '.join(columns) or 'none'}."
    )


def read_image_folder(
    faults: Faults, file: str, image_dir: str | None, kind: str, names: Sequence[str] | None
) -> Iterator[Row]:
    """Yield a row for every image that the metadata of this kind (`pairs`, `objects`, `captions`) names."""
    folder = find_image_dir(file, image_dir)
    for number, row in read_records(faults, file):
        with faults.skipping():
            row_id, image = read_name(row, "id") or str(number), row["file_name"]
            if kind == "pairs":
                texts = read_texts(row, number)
                yield {**texts, **place_images(image, folder, False, row.where), PLACE: row.where}
                continue
            path, size = measure_image(image, folder, row.where)
            if kind == "captions":
                head = {"id": row_id, "group": None, "image": path, PLACE: row.where}
                yield {**head, "captions": read_accepted(row, "text")}
            else:
                objects = _read_objects(faults, row, size, names)
                yield build_row(row_id, path, size, objects, row.where)


def _read_objects(
    faults: Faults, row: Record, size: tuple[int, int], names: Sequence[str] | None
) -> list[SceneObject]:
    objects = row["objects"]
    boxes, categories = (
        objects.get(key) if isinstance(objects, dict) else None for key in ("bbox", "categories")
    )
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        raise UserError(
            f"{row.where}: `objects` must be {{bbox: [[x, y, width, height], ...], categories: [...]}}, as "
            f"many of either, got {objects!r}."
        )
    items = []
    for number, (box, category) in enumerate(zip(boxes, categories, strict=True), 1):
        with faults.skipping():
            place = f"{row.where} object {number}"
            label = _name_category(category, names, place)
            items.append(build_object(label, box, size, place, layout="xywh"))
    return items


def _name_category(category: object, names: Sequence[str] | None, where: str) -> str:
    if isinstance(category, str):
        check_label(category, f"{where}: its class")
        return category if names is None else name_class(category, {name: name for name in names}, where)
    if names is None:
        raise UserError(f"{where}: class {category!r} is a number: pass dataset.names=[...].")
    return name_class(category, dict(enumerate(names)), where)
