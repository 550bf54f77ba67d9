"""Masks as COCO's run lengths: read from a row, checked, and compared."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from finetune.errors import UserError
from finetune.metrics.row import name_row

Rle = dict[str, Any]
"""`size`, height and width in pixels, and `counts`, compressed."""


def read_mask(row: Mapping[str, Any], one: Mapping[str, Any]) -> Rle | None:
    """Return an object's mask, or null where it has none.

    Raises:
        UserError: `mask_rle` is no run-length encoding, does not fill its size, or is not of the size that
            the row's `height` and `width` say.
    """
    rle = one.get("mask_rle")
    if rle is None:
        return None
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"].encode() if isinstance(rle["counts"], str) else rle["counts"]
        runs = _decompress(counts) if isinstance(counts, bytes) else [int(run) for run in counts]
    except (TypeError, KeyError, ValueError, IndexError):
        raise UserError(
            f"{name_row(row)}: expected `mask_rle` to be COCO's run lengths, an object with `size` "
            "(height, width) and `counts`, but could not read it."
        ) from None
    # The library reads on past the end of runs that are too short.
    if min(height, width, *runs) < 0 or sum(runs) != height * width:
        raise UserError(
            f"{name_row(row)}: the runs of a `mask_rle` sum to {sum(runs)}, but its size "
            f"{height} x {width} has {height * width} pixels."
        )
    for key, side in (("height", height), ("width", width)):
        if row.get(key) not in (None, side):
            raise UserError(f"{name_row(row)}: a `mask_rle` has {key} {side}, but the row {row[key]}.")
    if isinstance(counts, bytes):
        return {"size": [height, width], "counts": counts}
    compressed: Rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return compressed


def check_sizes(row: Mapping[str, Any], masks: Sequence[Rle]) -> None:
    """Raise unless all masks of a row have one size.

    Raises:
        UserError: they have not.
    """
    sizes = sorted({tuple(mask["size"]) for mask in masks})
    if len(sizes) > 1:
        raise UserError(f"{name_row(row)}: its masks differ in size (height, width): {sizes}.")


def empty_mask(size: Sequence[int]) -> Rle:
    """Return a mask without a pixel, of a height and width."""
    mask: Rle = coco_mask.encode(np.zeros(tuple(size), dtype=np.uint8, order="F"))
    return mask


def mask_overlap(one: Rle, other: Rle) -> tuple[int, int]:
    """Return the number of pixels that two masks of one size share, and of those in either."""
    shared = int(coco_mask.area(coco_mask.merge([one, other], intersect=True)))
    return shared, int(coco_mask.area(one)) + int(coco_mask.area(other)) - shared


def _decompress(counts: bytes) -> list[int]:
    """Read COCO's string: five bits a character, lowest first; from the fourth run on, differences.

    Source: cocoapi common/maskApi.c (`rleFrString`).
    """
    runs: list[int] = []
    place = 0
    while place < len(counts):
        value = shift = 0
        more = True
        while more:
            bits = counts[place] - 48
            if not 0 <= bits < 64:
                raise ValueError
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            place += 1
            shift += 5
            if not more and bits & 0x10:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
