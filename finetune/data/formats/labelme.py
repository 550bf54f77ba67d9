"""labelme: one JSON file per image, with rectangles, polygons, circles and masks."""

import base64
import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.codecs.coco_mask import encode_rle
from finetune.data.annotations import Labelme
from finetune.data.formats.shapes import Point, place_shape, surround, trace_ellipse
from finetune.data.formats.splits import find_image_dir, find_split_files, load_sources
from finetune.data.images import IMAGE_SUFFIXES, check_size, measure_image
from finetune.data.layouts.labelme import find_splits, is_labelme
from finetune.data.objects import Note, build_object, build_row, check_label, object_features
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_items, read_record
from finetune.data.reading.record import Record
from finetune.data.rows import Row, Splits
from finetune.errors import UserError
from finetune.example import SceneObject

FEATURES = object_features()

_IGNORED = ("point", "points", "line", "linestrip")
"""Shapes that are neither boxes nor masks."""


def load_labelme(options: Labelme) -> Splits:
    """Read the folders of both splits, or hold out a share of `train`.

    A split is a folder of JSON files, next to their images or with `dataset.image_dir`; or one JSON file.
    Polygons of a class with the same `group_id` are one object.
    """
    files = find_split_files(options, find_splits, "labelme's JSON files")

    def gather(names: Sequence[str]) -> list[Mapping[str, object]]:
        return [
            {
                "file": name,
                "annotations": tuple(_list_annotations(Path(name))),
                "image_dir": options.image_dir and str(find_image_dir(name, options.image_dir)),
                "clip": options.clip,
            }
            for name in names
        ]

    validation = None if files.validation is None else gather(files.validation)
    return load_sources(
        read_labelme, FEATURES, options, gather(files.train), validation, paths=("annotations",)
    )


def _list_annotations(place: Path) -> list[str]:
    files = [place] if place.is_file() else sorted(place.rglob("*.json"))
    return [str(file) for file in files if is_labelme(file)]


def read_labelme(
    faults: Faults, file: str, annotations: tuple[str, ...], image_dir: str | None, clip: bool
) -> Iterator[Row]:
    """Yield a row for every JSON file.

    Args:
        faults: what to do with an image or a shape that cannot be used.
        file: the folder.
        annotations: its JSON files.
        image_dir: folder of the images; None: that of each JSON file.
        clip: clip boxes that are partly outside their images.
    """
    top = Path(file) if Path(file).is_dir() else Path(file).parent
    for name in annotations:
        with faults.skipping():
            record = read_record(Path(name))
            folders = [Path(image_dir)] if image_dir else [Path(name).parent, top / "images", top]
            image = record["imagePath"]
            if not image_dir and isinstance(image, str) and image.startswith(".."):
                # Next to the annotations; `measure_image` refuses one outside the folder that was named.
                image = str(Path(name).parent.relative_to(top) / image.replace("\\", "/"))
                folders = [top]
            path, size = measure_image(image, folders, name)
            check_size((record.get("imageHeight"), record.get("imageWidth")), size, name)
            objects = list(_read_objects(faults, record, size, faults.note if clip else None))
            row_id = str(Path(name).relative_to(top).with_suffix(""))
            yield build_row(row_id, path, size, objects, name)
    for image in _find_unannotated(annotations) if Path(file).is_dir() else []:
        # labelme writes no file for an image without shapes: it may be empty, or not annotated yet.
        faults.note("images without a JSON file, which are left out", str(image))


def _find_unannotated(annotations: Sequence[str]) -> list[Path]:
    """Return the images next to annotations that have none themselves."""
    annotated = {Path(name).with_suffix("") for name in annotations}
    folders = sorted({path.parent for path in annotated})
    return [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and path.with_suffix("") not in annotated
    ]


def _read_objects(
    faults: Faults, record: Record, size: tuple[int, int], clip: Note | None
) -> Iterator[SceneObject]:
    groups: dict[tuple[str, object], list[list[Point]]] = {}
    for shape in iterate_items(faults, record, "shapes"):
        with faults.skipping():
            label = check_label(shape["label"], f"{shape.where}: its label")
            kind, group = str(shape.get("shape_type") or "polygon"), shape.get("group_id")
            if kind in _IGNORED:
                faults.note(f"shapes `{kind}` are not boxes or masks and were ignored", shape.where)
            elif kind == "mask" or kind == "rectangle":
                yield _read_box(label, kind, shape, size, clip)
            else:
                outline = _read_outline(kind, shape)
                if group is None:
                    yield place_shape(label, [outline], size, shape.where, clip)
                else:
                    groups.setdefault((label, str(group)), []).append(outline)
    for (label, group), outlines in groups.items():
        with faults.skipping():
            yield place_shape(label, outlines, size, f"{record.where}: group {group}", clip)


def _read_points(shape: Record, least: int) -> list[Point]:
    points = shape.array("points")
    try:
        pairs = [(float(x), float(y)) for x, y in points]  # type: ignore[misc, has-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"{shape.where}: expected points [x, y], got {str(points)[:80]}.") from error
    if len(pairs) < least:
        raise UserError(f"{shape.where}: expected {least} points or more, got {len(pairs)}.")
    return pairs


def _read_outline(kind: str, shape: Record) -> list[Point]:
    if kind == "polygon":
        return _read_points(shape, 3)
    if kind == "circle":
        (x, y), (edge_x, edge_y) = _read_points(shape, 2)[:2]
        radius = math.hypot(edge_x - x, edge_y - y)
        return trace_ellipse((x, y), (radius, radius))
    raise UserError(
        f"{shape.where}: the shape `{kind}` is unknown; expected rectangle, polygon, circle or mask."
    )


def _read_box(
    label: str, kind: str, shape: Record, size: tuple[int, int], clip: Note | None
) -> SceneObject:
    """Return a rectangle, whose corners may be in any order, or a mask, drawn inside its rectangle."""
    points = _read_points(shape, 2)
    box = surround(points)
    if kind == "rectangle":
        return build_object(label, box, size, shape.where, clip=clip)
    try:
        crop = Image.open(BytesIO(base64.b64decode(shape.text("mask"), validate=True))).convert("L")
    except (OSError, ValueError, binascii.Error) as error:
        raise UserError(f"{shape.where}: `mask` is not a PNG in base64 ({error}).") from error
    mask = np.zeros(size, dtype=bool)
    left, top = int(box[0]), int(box[1])
    if left < 0 or top < 0 or left + crop.width > size[1] or top + crop.height > size[0]:
        raise UserError(
            f"{shape.where}: its mask, {crop.width} x {crop.height} at {left}, {top}, is outside the image."
        )
    mask[top : top + crop.height, left : left + crop.width] = np.asarray(crop) > 0
    corners = (left, top, left + crop.width, top + crop.height)
    return build_object(label, corners, size, shape.where, segmentation=encode_rle(mask), clip=clip)
