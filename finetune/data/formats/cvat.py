"""CVAT's own XML, "CVAT for images": boxes, polygons, ellipses and masks of every image in one file."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.codecs.coco_mask import encode_rle
from finetune.codecs.rle import MOST_PIXELS
from finetune.data.annotations import Cvat
from finetune.data.formats.shapes import place_shape, surround, trace_ellipse, turn_box
from finetune.data.formats.splits import find_image_dirs, find_split_files, load_files
from finetune.data.images import check_size, measure_image
from finetune.data.layouts.cvat import find_image_folders, find_splits
from finetune.data.objects import Note, build_object, build_row, check_label, object_features
from finetune.data.reading.faults import Faults
from finetune.data.reading.xml import parse_xml
from finetune.data.rows import Row, Splits
from finetune.errors import UserError
from finetune.example import SceneObject

FEATURES = object_features()

_OBJECTS = ("box", "polygon", "ellipse", "mask")
_IGNORED = ("polyline", "points", "cuboid", "skeleton", "tag")
"""Annotations that are neither boxes nor masks."""


def load_cvat(options: Cvat) -> Splits:
    """Read the files of both splits, or hold out a share of `train`.

    A split is an XML file, or the folder of an export with `annotations.xml` and `images/`.
    """
    files = find_split_files(options, find_splits, "CVAT's annotations.xml")
    return load_files(read_cvat, FEATURES, options, files, clip=options.clip)


def read_cvat(faults: Faults, file: str, image_dir: str | None, clip: bool) -> Iterator[Row]:
    """Yield a row for every image of the file; without annotations it has no objects.

    Args:
        faults: what to do with an image or an object that cannot be used.
        file: the XML file; it must fit in memory.
        image_dir: folder of the images; None: `images` next to the file.
        clip: clip boxes that are partly outside their images.
    """
    folders, root = find_image_dirs(file, image_dir, find_image_folders), parse_xml(Path(file))
    if root.find("track") is not None:
        raise UserError(
            f"{file}: it has tracks of a video. Export the task as CVAT for images, or as COCO."
        )
    for image in root.findall("image"):
        where = f"{file}: image {image.get('id', '')} `{image.get('name', '')}`"
        with faults.skipping():
            subset = image.get("subset", "")
            if subset:
                faults.note(f"images of the subset {subset} were read with the others", where)
            places = [*folders, *(folder / subset for folder in folders if subset)]
            path, size = measure_image(image.get("name", ""), places, where)
            check_size((_read_side(image, "height", where), _read_side(image, "width", where)), size, where)
            row_id = "/".join(filter(None, (image.get("task_id"), image.get("name"))))
            objects = list(_read_objects(faults, image, size, where, clip))
            yield build_row(row_id, path, size, objects, where)


def _read_side(image: ET.Element, side: str, where: str) -> int | None:
    return None if image.get(side) is None else round(_read_number(image, side, where))


def _read_objects(
    faults: Faults, image: ET.Element, size: tuple[int, int], where: str, clip: bool
) -> Iterator[SceneObject]:
    note = faults.note if clip else None
    for number, element in enumerate(image, 1):
        place = f"{where} {element.tag} {number}"
        with faults.skipping():
            if element.tag in _OBJECTS:
                yield _read_object(element, size, place, note)
            elif element.tag in _IGNORED:
                faults.note(f"annotations <{element.tag}> are not boxes or masks and were ignored", place)


def _read_object(element: ET.Element, size: tuple[int, int], where: str, clip: Note | None) -> SceneObject:
    label = check_label(element.get("label", ""), f"{where}: its label")

    def numbers(*names: str) -> list[float]:
        return [_read_number(element, name, where) for name in names]

    angle = _read_number(element, "rotation", where) if element.get("rotation") else 0.0
    if element.tag == "box":
        corners = numbers("xtl", "ytl", "xbr", "ybr")
        if not angle:
            return build_object(label, corners, size, where, clip=clip)
        return build_object(label, surround(turn_box(corners, angle)), size, where, clip=clip)
    if element.tag == "ellipse":
        x, y, wide, high = numbers("cx", "cy", "rx", "ry")
        return place_shape(label, [trace_ellipse((x, y), (wide, high), angle)], size, where, clip)
    if element.tag == "polygon":
        return place_shape(label, [_read_points(element, where)], size, where, clip)
    box, rle = _read_mask(element, size, where)
    return build_object(label, box, size, where, segmentation=rle, clip=clip)


def _read_number(element: ET.Element, name: str, where: str) -> float:
    try:
        return float(element.attrib[name])
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: expected a number `{name}`, got {element.get(name)!r}.") from error


def _read_points(element: ET.Element, where: str) -> list[tuple[float, float]]:
    """Return the points of `x,y;x,y;...`."""
    text = element.get("points", "")
    try:
        points = [tuple(map(float, point.split(","))) for point in text.split(";")]
        return [(x, y) for x, y in points]
    except ValueError as error:
        raise UserError(f"{where}: expected points `x,y;x,y;...`, got {text[:80]!r}.") from error


def _read_mask(
    element: ET.Element, size: tuple[int, int], where: str
) -> tuple[tuple[int, int, int, int], object]:
    """Return box and run lengths of a mask, which CVAT writes row by row inside its box."""
    left, top, width, height = (
        int(_read_number(element, name, where)) for name in ("left", "top", "width", "height")
    )
    try:
        runs = [int(run) for run in element.get("rle", "").split(",")]
    except ValueError as error:
        raise UserError(f"{where}: `rle` must be whole numbers, got {element.get('rle')!r:.80}.") from error
    inside = left >= 0 and top >= 0 and left + width <= size[1] and top + height <= size[0]
    if not inside or width < 1 or height < 1 or height * width > MOST_PIXELS:
        raise UserError(
            f"{where}: its box, {width} x {height} at {left}, {top}, is outside the image, {size[1]} wide "
            f"and {size[0]} high."
        )
    if min(runs) < 0 or sum(runs) != height * width:
        raise UserError(f"{where}: `rle` must fill {width} x {height} pixels, but has {sum(runs)}.")
    mask = np.zeros(size, dtype=bool)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : top + height, left : left + width] = values.reshape(height, width)
    return (left, top, left + width, top + height), encode_rle(mask)
