"""COCO's polygons and run lengths to masks and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco


def decode_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Draw the union of polygons.

    Args:
        polygons: each x, y, x, y, ... in pixels, as in COCO's `segmentation`.
        size: image height and width, pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: there is no polygon, or one has fewer than three points, half a point or a number
            that is not finite.
    """
    return decode_rle(encode_polygons(polygons, size), size)


def encode_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> dict[str, Any]:
    """Write the union of polygons as COCO's compressed run lengths.

    Args:
        polygons: each x, y, x, y, ... in pixels, as in COCO's `segmentation`.
        size: image height and width, pixels.

    Raises:
        ValueError: as in `decode_polygons`.
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


def decode_rle(rle: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Read run lengths, COCO's compressed string or a plain list.

    Not by pycocotools' own `decode`, which leaves memory unset where the runs end early.

    Args:
        rle: `size`, height and width, and `counts`.
        size: image height and width, pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: the run lengths are of another size, or do not fill it.
    """
    runs = read_runs(rle, size)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size, order="F")


def read_runs(rle: Mapping[str, Any], size: tuple[int, int]) -> list[int]:
    """Return the run lengths themselves: background first, in turn, column by column, pixels.

    Args:
        rle: as in `decode_rle`.
        size: image height and width, pixels.

    Raises:
        ValueError: as in `decode_rle`.
    """
    height, width = size
    if tuple(rle["size"]) != (height, width):
        raise ValueError(f"Expected run lengths of size {(height, width)}, but got {tuple(rle['size'])}.")
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode()
    runs = _decompress(counts) if isinstance(counts, bytes) else list(counts)
    if sum(runs) != height * width or min(runs) < 0:
        got = f"{len(runs)} that sum to {sum(runs)}"
        raise ValueError(f"Expected run lengths that sum to {height * width} pixels, but got {got}.")
    return runs


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Write a mask of (height, width) as `size` and a compressed `counts` string, ready for JSON."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def _decompress(counts: bytes) -> list[int]:
    """Return the run lengths of a compressed string.

    Five bits a character, lowest first, 32 marks that more follow; signed, and from the fourth on the
    difference to the run two before.

    Source: cocoapi `common/maskApi.c`, `rleFrString`.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"Expected compressed run lengths, but got the character {chr(character)!r}.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("Expected compressed run lengths, but the string ends within a number.")
    return runs
