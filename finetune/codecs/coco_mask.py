"""Polygons and masks to COCO's run lengths, by pycocotools."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco

from finetune.codecs.rle import parse_rle
from finetune.example import Rle


def encode_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Rle:
    """Write the union of polygons as COCO's compressed run lengths.

    Args:
        polygons: each x, y, x, y, ... in pixels, as in COCO's `segmentation`.
        size: image height and width, pixels.

    Raises:
        ValueError: there is no polygon, or one has fewer than three points, half a point or a number
            that is not finite.
    """
    if not polygons:
        raise ValueError("Expected `polygons` to have at least one polygon, but got none.")
    for row, polygon in enumerate(polygons):
        if len(polygon) < 6 or len(polygon) % 2:
            expected = "three or more points, x and y of each"
            raise ValueError(f"Expected polygon {row} to be {expected}, but got {len(polygon)} numbers.")
        if not np.isfinite(polygon).all():
            raise ValueError(f"Expected polygon {row} to be finite, but got {list(polygon)}.")
    # In float64 and as plain lists: pycocotools reads other types as something else.
    plain = [np.asarray(polygon, dtype=np.float64).tolist() for polygon in polygons]
    rle = coco.merge(coco.frPyObjects(plain, *size))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def compress_rle(rle: object) -> Rle:
    """Check run lengths, and write them as pycocotools takes them.

    Memory follows the number of runs, not the number of pixels.

    Args:
        rle: `size`, height and width, and `counts`, a compressed string or a plain list.

    Returns:
        `size`, height and width, and `counts`, compressed bytes.

    Raises:
        ValueError: the run lengths do not fill their size, or are not run lengths.
    """
    runs, (height, width) = parse_rle(rle)
    compressed: Rle = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return compressed


def encode_rle(mask: np.ndarray) -> Rle:
    """Write a mask of (height, width) as `size` and a compressed `counts` string, ready for JSON."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def find_box(rle: Rle) -> list[float]:
    """Return the box around a mask: x_min, y_min, width and height in pixels, zeros for an empty mask.

    Args:
        rle: from `compress_rle`.
    """
    box: list[float] = coco.toBbox(rle).tolist()
    return box
