r"""From token ids to the tensors of a batch: one row for a prefix and its suffixes.

A row has `before` (image tokens, BOS, prefix, newline) once, and after it each of its suffixes:

    tokens      <image> ... BOS cat \n    a cat EOS   one cat EOS   <pad>
    position    1       ...              P+1 ...     P+1 ...
    block       0       ...         0    1 ...       2 ...         -1

Block 0 is seen by all; a suffix sees block 0 and what precedes it in its own block. Each suffix starts at
the same position, so that it is computed as if it were alone in a row. Its first token is predicted from
the newline, which therefore supervises one token for each suffix.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.example import IGNORED, PADDING


class Row(NamedTuple):
    """The ids of one row."""

    before: list[int]
    """Image tokens, BOS, prefix, newline."""
    suffixes: list[list[int]]
    """Each with its EOS."""


class Tokens(NamedTuple):
    """B rows of T tokens, padded on the right; all (B, T) int64."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor
    blocks: Tensor
    positions: Tensor


class Supervised(NamedTuple):
    """The supervised tokens of a batch, row by row."""

    columns: Tensor
    """(B, R) int64: the position before each of a row's; filled up with the row's last one."""
    places: Tensor
    """(N,) int64: where `columns`, flattened, has the position before each of them."""
    targets: Tensor
    """(N,) int64: their ids."""
    segments: Tensor
    """(N,) int64: the suffix that each of them belongs to, counted over all rows."""


def lay_out(rows: Sequence[Row], pad: int) -> Tokens:
    """Lay rows out side by side.

    Args:
        rows: the ids.
        pad: id of the padding.
    """
    length = max(len(row.before) + sum(map(len, row.suffixes)) for row in rows)
    laid: list[tuple[list[int], ...]] = []
    for before, suffixes in rows:
        size = len(before)
        ids, labels, blocks = [*before], [IGNORED] * size, [0] * size
        positions = list(range(1, size + 1))
        for block, suffix in enumerate(suffixes, 1):
            ids += suffix
            labels += suffix
            blocks += [block] * len(suffix)
            positions += range(size + 1, size + 1 + len(suffix))
        used, fill = len(ids), length - len(ids)
        laid.append(
            (
                ids + [pad] * fill,
                [1] * used + [0] * fill,
                # Padding counts as suffix: if it were ever attended to, nothing before it would see it.
                [0] * size + [1] * (length - size),
                labels + [IGNORED] * fill,
                blocks + [PADDING] * fill,
                positions + list(range(positions[-1] + 1, positions[-1] + 1 + fill)),
            )
        )
    return Tokens(*(torch.tensor(column) for column in zip(*laid, strict=True)))


def index_suffixes(rows: Sequence[Row]) -> Supervised:
    """Find the supervised tokens, before the batch is on a GPU, where counting them makes the CPU wait.

    Args:
        rows: the ids.
    """
    columns: list[list[int]] = []
    targets: list[int] = []
    segments: list[int] = []
    for before, suffixes in rows:
        start, listed = len(before), []
        for suffix in suffixes:
            listed += [len(before) - 1, *range(start, start + len(suffix) - 1)]
            targets += suffix
            segments += [segments[-1] + 1 if segments else 0] * len(suffix)
            start += len(suffix)
        columns.append(listed)
    widest = max(map(len, columns))
    filled = [listed + [listed[-1]] * (widest - len(listed)) for listed in columns]
    places = [row * widest + place for row, listed in enumerate(columns) for place in range(len(listed))]
    return Supervised(*map(torch.tensor, (filled, places, targets, segments)))
