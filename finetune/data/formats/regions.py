"""Label Studio's regions, in percent of the image, as objects."""

from collections.abc import Iterator, Sequence

import numpy as np

from finetune.codecs.brush import decode_brush
from finetune.codecs.coco_mask import encode_rle
from finetune.data.formats.shapes import Point, place_shape, surround, trace_ellipse, turn_box
from finetune.data.images import check_size
from finetune.data.objects import Note, build_object, check_label
from finetune.data.reading.faults import Faults
from finetune.data.reading.record import Record
from finetune.errors import UserError
from finetune.example import SceneObject

_LABELS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "labels")


def read_regions(
    faults: Faults, regions: Sequence[Record], size: tuple[int, int], clip: Note | None
) -> Iterator[SceneObject]:
    """Yield an object for each label of each region.

    Args:
        faults: what to do with a region that cannot be used.
        regions: of one image.
        size: its height and width, pixels.
        clip: as in `build_object`.
    """
    for region in regions:
        with faults.skipping():
            annotated = region.get("original_height"), region.get("original_width")
            check_size(annotated, size, region.where)
            if region.get("image_rotation"):
                raise UserError(
                    f"{region.where}: the image was turned in Label Studio, by {region['image_rotation']} "
                    "degrees, and its boxes with it. Turn the file instead."
                )
            labels = next((region[key] for key in _LABELS if region.get(key)), None)
            if not isinstance(labels, list):
                raise UserError(f"{region.where}: it has no label; the keys are: {', '.join(region)}.")
            for label in labels:
                yield _read_region(check_label(label, f"{region.where}: its label"), region, size, clip)


def _read_region(label: str, region: Record, size: tuple[int, int], clip: Note | None) -> SceneObject:
    height, width = size
    where = region.where
    if "rle" in region:
        try:
            mask = decode_brush(region["rle"], size)
        except ValueError as error:
            raise UserError(f"{where}: object `{label}`: {error}") from error
        ys, xs = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        if not len(xs):
            raise UserError(f"{where}: object `{label}`: its brush is empty. Delete the region.")
        edges = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
        return build_object(label, edges, size, where, segmentation=encode_rle(mask), clip=clip)
    if "points" in region:
        points = [_scale(point, width, height, where) for point in region.array("points")]
        return place_shape(label, [points], size, where, clip)
    x, y = region.number("x") * width / 100, region.number("y") * height / 100
    angle = region.number("rotation") if region.get("rotation") else 0.0
    if "radiusX" in region:
        radii = region.number("radiusX") * width / 100, region.number("radiusY") * height / 100
        return place_shape(label, [trace_ellipse((x, y), radii, angle)], size, where, clip)
    corners = (
        *(x, y),
        x + region.number("width") * width / 100,
        y + region.number("height") * height / 100,
    )
    box = surround(turn_box(corners, angle, around=(x, y))) if angle else corners
    return build_object(label, box, size, where, clip=clip)


def _scale(point: object, width: int, height: int, where: str) -> Point:
    try:
        x, y = point  # type: ignore[misc]
        return float(x) * width / 100, float(y) * height / 100  # type: ignore[has-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: expected points [x, y] in percent, got {str(point)[:80]}.") from error
