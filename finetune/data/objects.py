"""The column `objects`: the labelled boxes and masks of an image, the same for every source."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Features, List, Value

from finetune.codecs.boxes import check_boxes
from finetune.codecs.coco_mask import encode_polygons, encode_rle
from finetune.codecs.rle import decode_rle
from finetune.data.cache import PLACE
from finetune.data.rows import Row, text_features
from finetune.errors import UserError
from finetune.example import Rle, SceneObject

OBJECTS = List(
    {
        "label": Value("string"),
        "box_xyxy": List(Value("float64")),
        "iscrowd": Value("int8"),
        "area": Value("float64"),
        "mask_rle": {"size": List(Value("int32")), "counts": Value("string")},
    }
)
"""Named as in prediction rows; pixels; `mask_rle` covers the whole image, null without a mask."""


Note = Callable[[str, str], None]
"""Counts a change: what was changed, and its place; `Faults.note`."""

_CLIPPED = "boxes reach over the edge of their images and were clipped (dataset.clip)"
_MARGIN = 1.0
"""Pixels that an edge may be outside without being clipped, because annotation files round."""
_TINY = 32
"""Side of an image, pixels, up to which a box inside the first pixel is plausible."""
_LISTED = 30
"""Maximum number of classes in a message."""


def object_features(*columns: str) -> Features:
    """Columns of a source of boxes: `id`, `group`, `image`, `width`, `height`, `objects`, and these."""
    return Features({**text_features(*columns, numbers=("width", "height")), "objects": OBJECTS})


def build_row(
    row_id: str, image: str, size: tuple[int, int], objects: Sequence[SceneObject], place: str | None = None
) -> Row:
    """Return one image and its objects as a row without a group.

    Args:
        row_id: its id.
        image: path of the image.
        size: its height and width, pixels.
        objects: from `build_object`.
        place: file and place in it, for messages.
    """
    height, width = size
    head = {"id": row_id, "group": None, "image": image}
    return {**head, "width": width, "height": height, "objects": objects, PLACE: place}


def build_object(
    label: str,
    box: object,
    size: tuple[int, int],
    where: str,
    *,
    layout: str = "xyxy",
    relative: bool = False,
    segmentation: object = None,
    area: object = None,
    iscrowd: object = 0,
    clip: Note | None = None,
) -> SceneObject:
    """Check one object and return it as an item of the column.

    Args:
        label: its class, or an empty string.
        box: four numbers, pixels.
        size: the image's height and width, pixels.
        where: file and place, for the error message.
        layout: the order of the numbers: xyxy (x_min, y_min, x_max, y_max), xywh, cxcywh or yxyx.
        relative: the numbers are shares of width and height instead of pixels.
        segmentation: COCO's polygons or run lengths; None or empty: no mask.
        area: in pixels, as annotated; None: unknown.
        iscrowd: 1 for a crowd region: not trained on, ignored in scoring.
        clip: counts a box that is partly outside the image and is clipped to it; None: that is a fault.

    Raises:
        UserError: the box is not four numbers, not finite, inverted, smaller than a pixel or outside the
            image; a polygon has fewer than three points or is outside the box; or the run lengths are of
            another size.
    """
    height, width = size
    place = f"{where}: object `{label}`"
    scale = (width, height, width, height) if relative else (1, 1, 1, 1)
    try:
        corners = [side * unit for side, unit in zip(_to_xyxy(box, layout), scale, strict=True)]
        if clip is not None:
            corners = _clip(corners, size, place, clip)
        _check_pixels(corners, size, shares=not relative)
        check_boxes(np.array([corners]), size)
        return {
            "label": label,
            "box_xyxy": corners,
            "iscrowd": _check_crowd(iscrowd),
            "area": None if area is None else _check_area(area),
            "mask_rle": _encode_mask(segmentation, size, corners) if segmentation else None,
        }
    except KeyError as error:
        raise UserError(f"{place}: no `{error.args[0]}` in its mask.") from error
    except (TypeError, ValueError, OverflowError) as error:
        problem = str(error).replace("Expected row 0 of `boxes_xyxy`", "Expected its box")
        raise UserError(f"{place}: {problem}") from error


def _clip(corners: list[float], size: tuple[int, int], where: str, note: Note) -> list[float]:
    """Return a box clipped to the image if it is partly inside; otherwise as it is."""
    height, width = size
    x_min, y_min, x_max, y_max = corners
    over = max(-x_min, -y_min, x_max - width, y_max - height)
    inside = x_min < width and y_min < height and x_max > 0 and y_max > 0
    if not _MARGIN < over < float("inf") or not inside:
        return corners
    note(_CLIPPED, where)
    return [max(x_min, 0.0), max(y_min, 0.0), min(x_max, float(width)), min(y_max, float(height))]


def _check_pixels(corners: Sequence[float], size: tuple[int, int], shares: bool) -> None:
    """Refuse a box that is probably in shares of the image, or smaller than a pixel.

    Raises:
        ValueError: it is smaller than a pixel in both directions, or all numbers are 0 to 1.
    """
    x_min, y_min, x_max, y_max = corners
    if shares and min(size) > _TINY and min(corners) >= 0 and 0 < max(corners) <= 1:
        raise ValueError(
            f"Expected its box in pixels, but all numbers of {[*corners]} are 0 to 1: shares of width and "
            f"height? Multiply them by the image's {size[1]} and {size[0]}."
        )
    if 0 < x_max - x_min < 1 and 0 < y_max - y_min < 1:
        raise ValueError(
            f"Expected its box to be a pixel or more, but it is {[*corners]} in pixels of the image."
        )


def _check_crowd(value: object) -> int:
    if value not in (0, 1):
        raise ValueError(f"Expected `iscrowd` to be 0 or 1, but got {value!r}.")
    return int(value == 1)


def _check_area(value: object) -> float:
    area = float(value) if isinstance(value, str | int | float) else -1.0
    if not 0 <= area < float("inf"):
        raise ValueError(f"Expected `area` to be a number of pixels, but got {value!r}.")
    return area


def _to_xyxy(box: object, layout: str) -> tuple[float, float, float, float]:
    try:
        if not isinstance(box, Iterable) or isinstance(box, str | Mapping):
            raise TypeError
        if any(isinstance(side, bool) for side in box):
            raise TypeError
        a, b, c, d = map(float, box)
    except (TypeError, ValueError, OverflowError) as error:
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


def check_label(name: object, what: str) -> str:
    """Return the name of a class.

    Args:
        name: as in the file; a number is converted to text.
        what: file and place, for the error message.

    Raises:
        UserError: it is blank, or not a text.
    """
    text = "" if isinstance(name, bool) or not isinstance(name, str | int | float) else str(name)
    if not text.strip():
        raise UserError(f"{what} has the name {name!r}; expected a text.")
    return text


def name_class(key: object, names: Mapping[Any, str], where: str, kind: str = "class") -> str:
    """Return the name of a class.

    Args:
        key: number or id of the class.
        names: the names of all classes.
        where: file and place, for the error message.
        kind: the word for a class in the format.

    Raises:
        UserError: the class is unknown.
    """
    if isinstance(key, Hashable) and key in names:
        return names[key]
    listed = [f"{number} ({name})" for number, name in names.items()]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    raise UserError(
        f"{where}: there is no {kind} {key!r} in the list. It has: "
        f"{', '.join(listed[:_LISTED]) or 'none'}{more}."
    )


def _encode_mask(segmentation: object, size: tuple[int, int], corners: Sequence[float]) -> Rle:
    """Return a mask as compressed run lengths.

    Raises:
        ValueError: it cannot be read, or is wholly outside its box.
    """
    if isinstance(segmentation, Mapping):
        mask = decode_rle(segmentation, size)
        rle = encode_rle(mask)
        ys, xs = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        ends = [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1] if len(xs) else None
    elif isinstance(segmentation, Sequence):
        rle = encode_polygons(segmentation, size)
        points = np.concatenate(
            [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in segmentation]
        )
        ends = [*points.min(0), *points.max(0)]
    else:
        raise ValueError(f"Expected its mask to be polygons or run lengths, but got {segmentation!r}.")
    x_min, y_min, x_max, y_max = corners
    if ends is not None and (
        ends[0] > x_max or ends[1] > y_max or ends[2] < max(x_min, 0) or ends[3] < max(y_min, 0)
    ):
        spans = [round(float(end), 2) for end in ends]
        raise ValueError(f"Expected its mask to be in its box {[*corners]}, but it spans {spans}.")
    return rle
