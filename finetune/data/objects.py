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


def build_row(
    row_id: str, image: str, size: tuple[int, int], objects: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write one picture and its objects as a row without a group.

    Args:
        row_id: its id.
        image: path of the picture.
        size: its height and width, pixels.
        objects: of `build_object`.
    """
    height, width = size
    head = {"id": row_id, "group": None, "image": image}
    return {**head, "width": width, "height": height, "objects": objects}


def build_object(
    label: str,
    box: Sequence[float],
    size: tuple[int, int],
    where: str,
    *,
    layout: str = "xyxy",
    relative: bool = False,
    segmentation: Sequence[Sequence[float]] | Mapping[str, Any] | None = None,
    area: float | None = None,
    iscrowd: int = 0,
) -> dict[str, Any]:
    """Check one object and write it as an item of the column.

    Args:
        label: its class, or an empty string.
        box: four numbers, pixels.
        size: the picture's height and width, pixels.
        where: file and place, for the error message.
        layout: their order: xyxy (x_min, y_min, x_max, y_max), xywh, cxcywh or yxyx.
        relative: they are shares of width and height instead of pixels.
        segmentation: COCO's polygons or run lengths; null or empty: no mask.
        area: in pixels, as annotated; null: unknown.
        iscrowd: 1 for a region of many, which is neither trained on nor counted as missed.

    Raises:
        UserError: the box is no four numbers, not finite, inverted, empty or outside the picture, a
            polygon has fewer than three points, or the run lengths are of another size.
    """
    height, width = size
    scale = (width, height, width, height) if relative else (1, 1, 1, 1)
    try:
        corners = [side * unit for side, unit in zip(_to_xyxy(box, layout), scale, strict=True)]
        check_boxes(np.array([corners]), size)
        return {
            "label": label,
            "box_xyxy": corners,
            "iscrowd": int(iscrowd),
            "area": None if area is None else float(area),
            "mask_rle": _encode_mask(segmentation, size) if segmentation else None,
        }
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: object `{label}`: {error}") from error


def _to_xyxy(box: Sequence[float], layout: str) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = map(float, box)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected a box of four numbers, but got {box!r}.") from error
    if layout == "xywh":
        return a, b, a + c, b + d
    if layout == "xyxy":
        return a, b, c, d
    if layout == "cxcywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if layout == "yxyx":
        return b, a, d, c
    raise ValueError(f"layout={layout}: expected xywh, xyxy, cxcywh or yxyx.")


def name_class(key: Any, names: Mapping[Any, str], where: str, kind: str = "class") -> str:
    """Return the name of a class.

    Args:
        key: its number or id.
        names: those of all classes.
        where: file and place, for the error message.
        kind: what the format calls it.

    Raises:
        UserError: it is not among them.
    """
    if key not in names:
        known = ", ".join(f"{number} ({name})" for number, name in names.items()) or "none"
        raise UserError(f"{where}: there is no {kind} {key!r} in the list. It has: {known}.")
    return names[key]


def _encode_mask(
    segmentation: Sequence[Sequence[float]] | Mapping[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    if isinstance(segmentation, Mapping):
        return encode_rle(decode_rle(segmentation, size))
    return encode_polygons(segmentation, size)
