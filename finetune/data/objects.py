"""The column `objects`: what lies where in a picture, as every source of boxes and masks gives it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Features, List, Value

from finetune.codecs.boxes import check_boxes
from finetune.codecs.coco_mask import decode_rle, encode_polygons, encode_rle
from finetune.data.rows import text_features
from finetune.errors import UserError

OBJECTS = List(
    {
        "label": Value("string"),
        "box_xyxy": List(Value("float64")),
        "iscrowd": Value("int8"),
        "area": Value("float64"),
        "mask_rle": {"size": List(Value("int32")), "counts": Value("string")},
    }
)
"""Under the names of prediction rows: pixels; `mask_rle` over the whole picture, null without a mask."""


def object_features(*columns: str) -> Features:
    """Columns of a source of boxes: `id`, `group`, `image`, `width`, `height`, `objects`, and these."""
    sizes = {"width": Value("int32"), "height": Value("int32")}
    return Features({**text_features(*columns), **sizes, "objects": OBJECTS})


def build_object(
    label: str,
    box_xyxy: Sequence[float],
    size: tuple[int, int],
    where: str,
    *,
    segmentation: Sequence[Sequence[float]] | Mapping[str, Any] | None = None,
    area: float | None = None,
    iscrowd: int = 0,
) -> dict[str, Any]:
    """Check one object and write it as an item of the column.

    Args:
        label: its class, or an empty string.
        box_xyxy: pixels: x_min, y_min, x_max, y_max.
        size: the picture's height and width, pixels.
        where: file and place, for the error message.
        segmentation: COCO's polygons or run lengths; null or empty: no mask.
        area: in pixels, as annotated; null: unknown.
        iscrowd: 1 for a region of many, which is neither trained on nor counted as missed.

    Raises:
        UserError: the box is not finite, inverted, empty or outside the picture, a polygon has fewer than
            three points, or the run lengths are of another size.
    """
    try:
        box = [float(value) for value in box_xyxy]
        check_boxes(np.array([box]), size)
        mask = _encode_mask(segmentation, size) if segmentation else None
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: object `{label}`: {error}") from error
    return {
        "label": label,
        "box_xyxy": box,
        "iscrowd": int(iscrowd),
        "area": None if area is None else float(area),
        "mask_rle": mask,
    }


def _encode_mask(
    segmentation: Sequence[Sequence[float]] | Mapping[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    if isinstance(segmentation, Mapping):
        return encode_rle(decode_rle(segmentation, size))
    return encode_polygons(segmentation, size)
