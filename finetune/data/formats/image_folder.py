"""An image folder: images, and a `metadata` file of JSON Lines, CSV or parquet that names them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.annotations import ImageFolder
from finetune.data.cache import PLACE
from finetune.data.formats import jsonl
from finetune.data.formats.jsonl import place_images, read_accepted, read_name, read_texts
from finetune.data.formats.splits import (
    Files,
    describe_folder,
    find_image_dir,
    find_split_files,
    load_files,
)
from finetune.data.images import IMAGE_SUFFIXES, measure_image
from finetune.data.layouts.image_folder import METADATA, find_class_folders, find_metadata, find_splits
from finetune.data.objects import build_object, build_row, check_label, name_class, object_features
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
    "classes": text_features(lists=("suffixes",), numbers=("width", "height")),
}
"""The columns of the rows for each kind of metadata."""
NEEDED = {"pairs": ("prefix", "suffix"), "objects": ("objects",), "captions": ("text",)}
"""The columns of the metadata that determine the kind, besides `file_name`."""


def load_image_folder(options: ImageFolder) -> Splits:
    """Read the metadata of both splits, or hold out a share of `train`.

    Besides `file_name`, the metadata has `prefix` and `suffix`; or `objects`, with the lists `bbox` (x, y,
    width, height in pixels) and `categories`; or `text`, the caption. The first row says which. Images
    that it does not name are not used; other columns are read with dataset=table. Without metadata, the
    name of an image's folder is its suffix.
    """
    folders = find_split_files(options, find_splits, f"one of {', '.join(METADATA)}")
    train = tuple(map(_find_metadata, folders.train))
    validation = folders.validation and tuple(map(_find_metadata, folders.validation))
    with reading(train[0]):
        kind = "classes" if Path(train[0]).is_dir() else _find_kind(train[0])
    return load_files(
        read_image_folder,
        FEATURES[kind],
        options,
        Files(train, validation),
        kind=kind,
        names=options.names,
        clip=options.clip,
    )


def _find_metadata(folder: str) -> str:
    if not Path(folder).is_dir():
        return folder
    present = find_metadata(Path(folder))
    if not present and find_class_folders(Path(folder)):
        return folder
    if len(present) != 1:
        got = " and ".join(present) or "none"
        raise UserError(
            f"{folder}: expected one of {', '.join(METADATA)}, got {got}. {describe_folder(Path(folder))}"
        )
    return str(Path(folder) / present[0])


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
    faults: Faults, file: str, image_dir: str | None, kind: str, names: Sequence[str] | None, clip: bool
) -> Iterator[Row]:
    """Yield a row for every image that the metadata names.

    Args:
        faults: what to do with a row or an object that cannot be used.
        file: the metadata.
        image_dir: folder of the images; None: the folder of the file.
        kind: `pairs`, `objects`, `captions` or `classes`.
        names: as in `load_image_folder`.
        clip: clip boxes that are partly outside their images.
    """
    if kind == "classes":
        yield from _read_classes(faults, Path(file))
        return
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
                objects = _read_objects(faults, row, size, names, clip)
                yield build_row(row_id, path, size, objects, row.where)


def _read_classes(faults: Faults, folder: Path) -> Iterator[Row]:
    """Yield a row for every image of every class."""
    for place in find_class_folders(folder):
        for file in sorted(place.rglob("*")):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                with faults.skipping():
                    name = str(file.relative_to(folder))
                    path, (height, width) = measure_image(name, folder, str(file))
                    head = {"id": name, "group": None, "image": path, "suffixes": [place.name]}
                    yield {**head, "width": width, "height": height, PLACE: str(file)}


def _read_objects(
    faults: Faults, row: Record, size: tuple[int, int], names: Sequence[str] | None, clip: bool
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
    items, note = [], faults.note if clip else None
    for number, (box, category) in enumerate(zip(boxes, categories, strict=True), 1):
        with faults.skipping():
            place = f"{row.where} object {number}"
            label = _name_category(category, names, place)
            items.append(build_object(label, box, size, place, layout="xywh", clip=note))
    return items


def _name_category(category: object, names: Sequence[str] | None, where: str) -> str:
    if isinstance(category, str):
        check_label(category, f"{where}: its class")
        return category if names is None else name_class(category, {name: name for name in names}, where)
    if names is None:
        raise UserError(f"{where}: class {category!r} is a number: pass dataset.names=[...].")
    return name_class(category, dict(enumerate(names)), where)
