"""COCO's run lengths of a mask, checked and read. The one reader of them for codecs, metrics and tasks."""

from collections.abc import Mapping
from numbers import Integral

import numpy as np

from finetune.errors import describe

MOST_PIXELS = 1 << 28
"""Of a mask, three times as many as of an image that is read: 16,384 x 16,384."""

_MOST_SHIFT = 40
"""Bits of one compressed number; those of pycocotools are 32 wide."""


def decode_rle(rle: object, size: tuple[int, int]) -> np.ndarray:
    """Read run lengths, COCO's compressed string or a plain list.

    Not by the `decode` of pycocotools, which leaves memory unset where the runs end early.

    Args:
        rle: `size`, height and width, and `counts`.
        size: image height and width, pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: the run lengths are of another size, do not fill it, or are not run lengths.
    """
    runs = read_runs(rle, size)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size, order="F")


def read_runs(rle: object, size: tuple[int, int]) -> list[int]:
    """Return the run lengths themselves: background first, in turn, column by column, pixels.

    Args:
        rle: as in `decode_rle`.
        size: image height and width, pixels.

    Raises:
        ValueError: as in `decode_rle`.
    """
    runs, runs_size = parse_rle(rle)
    if runs_size != tuple(size):
        raise ValueError(f"Expected run lengths of size {tuple(size)}, but got {runs_size}.")
    return runs


def parse_rle(rle: object) -> tuple[list[int], tuple[int, int]]:
    """Return the run lengths and their size, height and width; the runs fill it.

    Raises:
        ValueError: they are not run lengths, or do not fill their size.
    """
    if not (isinstance(rle, Mapping) and "size" in rle and "counts" in rle):
        raise ValueError("Expected run lengths to have `size`, height and width, and `counts`.")
    sides, counts = rle["size"], rle["counts"]
    if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(map(_is_count, sides))):
        raise ValueError(
            f"Expected `size` to be height and width in whole pixels, but got {describe(sides)}."
        )
    height, width = int(sides[0]), int(sides[1])
    # One number in a file may claim any size; what it stands for is allocated.
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"Expected `size` to be at most {MOST_PIXELS:,} pixels, but got {describe(sides)}."
        )
    if isinstance(counts, str | bytes):
        runs = _decompress(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts)
    elif isinstance(counts, list | tuple) and all(_is_run(run) for run in counts):
        runs = list(counts)
    else:
        raise ValueError(f"Expected `counts` to be a string or whole numbers, but got {describe(counts)}.")
    if sum(runs) != height * width or min(runs, default=0) < 0:
        got = f"{len(runs)} that sum to {sum(runs)}"
        raise ValueError(f"Expected run lengths that sum to {height * width} pixels, but got {got}.")
    return runs, (height, width)


def _is_run(value: object) -> bool:
    return type(value) is int and abs(value) <= MOST_PIXELS


def _is_count(value: object) -> bool:
    return type(value) is not bool and isinstance(value, Integral) and int(value) > 0


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
        if shift > _MOST_SHIFT:
            raise ValueError("Expected compressed run lengths, but a number in the string does not end.")
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
