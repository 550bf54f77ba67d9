"""Images that are in two splits: the same pixels, or nearly the same picture."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from finetune.data.examples.decoding import Decoded

_ALIKE = 8
"""Most of the 256 bits in which two copies of an image differ: JPEG at quality 40 changes some 3 of them,
another size 1 or 2; photographs of different things differ in 25 or more."""
_STRUCTURE = 24
"""Fewest bits of an outline, set or not set, that tell an image from others; fewer: it is nearly flat."""
_PAIRS = 1 << 22
"""Pairs that are compared at a time: 128 MiB."""


class Pair(NamedTuple):
    """An image of one split that is also in another."""

    row: int
    """Row of the first split."""
    other: int
    """Row of the second."""
    is_same: bool
    """Whether all pixels are equal."""


def find_pairs(rows: Mapping[int, Decoded], others: Mapping[int, Decoded]) -> list[Pair]:
    """Find the rows of a split with an image that is also in another split, at most one pair for each row.

    Args:
        rows: decoded images of the split, by index.
        others: those of the other split.
    """
    contents = {image.content: index for index, row in others.items() for image in row.images}
    pairs, open_rows, outlines = [], [], []
    for index, row in rows.items():
        same = next((contents[image.content] for image in row.images if image.content in contents), None)
        if same is not None:
            pairs.append(Pair(index, same, is_same=True))
            continue
        for image in row.images:
            open_rows.append(index)
            outlines.append(image.outline)
    other_rows = [index for index, row in others.items() for _ in row.images]
    other_outlines = [image.outline for row in others.values() for image in row.images]
    near = _find_near(outlines, other_outlines)
    found = {open_rows[place]: other_rows[nearest] for place, nearest in near.items()}
    pairs += [Pair(index, other, is_same=False) for index, other in found.items()]
    return sorted(pairs)


def _find_near(outlines: list[bytes], others: list[bytes]) -> dict[int, int]:
    """Return the place of each outline that another one is like -> the place of that."""
    if not outlines or not others:
        return {}
    known, first = np.unique(_to_words(others), axis=0, return_index=True)
    is_telling = _has_structure(known)
    known, first = known[is_telling], first[is_telling]
    words = _to_words(outlines)
    near: dict[int, int] = {}
    size = max(1, _PAIRS // max(1, len(known)))
    for start in range(0, len(words) if len(known) else 0, size):
        part = words[start : start + size]
        distances = np.zeros((len(part), len(known)), dtype=np.uint16)
        for word in range(words.shape[1]):
            distances += np.bitwise_count(part[:, word, None] ^ known[None, :, word])
        best = distances.argmin(1)
        hits = np.flatnonzero((distances[np.arange(len(part)), best] <= _ALIKE) & _has_structure(part))
        near |= {start + int(place): int(first[best[place]]) for place in hits}
    return near


def _to_words(outlines: list[bytes]) -> np.ndarray:
    """Return outlines as numbers of 64 bits: (N, 4)."""
    return np.frombuffer(b"".join(outlines), dtype=np.uint64).reshape(len(outlines), -1)


def _has_structure(words: np.ndarray) -> np.ndarray:
    bits = np.bitwise_count(words).sum(1)
    return (bits >= _STRUCTURE) & (bits <= 64 * words.shape[1] - _STRUCTURE)
