"""Masks as COCO's run lengths: read from a row, checked, and compared."""

from collections.abc import Mapping, Sequence

from pycocotools import mask as coco_mask

from finetune.codecs.coco_mask import compress_rle
from finetune.errors import UserError
from finetune.example import Rle
from finetune.metrics.fields import name_row, read_size


def read_mask(row: Mapping[str, object], one: Mapping[str, object]) -> Rle | None:
    """Return an object's mask, or None where it has none.

    Raises:
        UserError: `mask_rle` is not a run-length encoding, does not fill its size, or is not of the size
            that the row's `height` and `width` say.
    """
    rle = one.get("mask_rle")
    if rle is None:
        return None
    try:
        mask = compress_rle(rle)
    except ValueError as error:
        raise UserError(f"{name_row(row)}: could not read a `mask_rle`. {error}") from error
    read_size(row)
    for key, side in zip(("height", "width"), mask["size"], strict=True):
        if row.get(key) not in (None, side):
            raise UserError(f"{name_row(row)}: a `mask_rle` has {key} {side}, but the row {row[key]}.")
    return mask


def check_sizes(row: Mapping[str, object], masks: Sequence[Rle]) -> None:
    """Raise unless all masks of a row have one size.

    Raises:
        UserError: they have not.
    """
    sizes = sorted({tuple(mask["size"]) for mask in masks})
    if len(sizes) > 1:
        raise UserError(f"{name_row(row)}: its masks differ in size (height, width): {sizes}.")


def empty_mask(size: Sequence[int]) -> Rle:
    """Return a mask without a pixel, of a height and width."""
    return compress_rle({"size": list(size), "counts": [size[0] * size[1]]})


def mask_overlap(one: Rle, other: Rle) -> tuple[int, int]:
    """Return the number of pixels that two masks of one size share, and of those in either."""
    shared = int(coco_mask.area(coco_mask.merge([one, other], intersect=True)))
    return shared, int(coco_mask.area(one)) + int(coco_mask.area(other)) - shared
