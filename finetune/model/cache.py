"""Keys and values of what was read, for rows that come and go.

Column c holds the token at position c + 1 of every row, so that what a row computes does not depend on the
others. A row that leaves is replaced by the last one, and one that joins takes a free place: nothing else
moves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GROWTH = 16
"""Columns that are added where a token has no room."""

Layer = tuple[Tensor, Tensor]
"""Keys and values of one layer: (rows, heads, columns, size) each."""


class RowCache:
    """The tokens that each row has read.

    Args:
        layers: of prompts that begin together; what follows a prompt is finite.
        lengths: the tokens of each row.
    """

    def __init__(self, layers: Sequence[Layer], lengths: Sequence[int]) -> None:
        # They may have more rows and columns than are in use.
        self._layers = list(layers)
        # Copies of a prompt are alike before this column.
        self._shared = min(lengths)
        self._lengths: list[int] = []
        self._ends, self._rows = (torch.empty(0, dtype=torch.long) for _ in range(2))
        self._place(lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    def number(self, count: int) -> Tensor:
        """Return the positions of new tokens, of which the first of a row has 1: (rows, count)."""
        return self._ends + torch.arange(1, count + 1, device=self._ends.device)

    def see_next(self, window: int | None = None) -> Tensor | None:
        """Return what one more token of each row sees: (rows, 1, 1, columns) bool; None for everything.

        Args:
            window: of the last tokens, which alone are seen; None: all are.
        """
        total = max(self._lengths) + 1
        is_cut = window is not None and total > window
        if min(self._lengths) + 1 == total and not is_cut:
            return None
        columns = torch.arange(total, device=self._ends.device)
        return _see(columns, self._ends, window)[:, None, None]

    def see_following(self, count: int, window: int | None = None) -> Tensor:
        """Return what new tokens see that are not kept: (rows, 1, count, columns and count) bool.

        Args:
            count: new tokens of each row, which see themselves and those before.
            window: see `see_next`.
        """
        device = self._ends.device
        width = max(self._lengths)
        own = torch.arange(count, device=device)
        queries = (self._ends + own)[:, :, None]
        before = torch.arange(width, device=device).expand(len(self), 1, width)
        # A column after a row's end is that of no token.
        before = before.masked_fill(before >= self._ends[:, :, None], torch.iinfo(torch.long).max)
        columns = torch.cat([before, (self._ends + own)[:, None]], 2)
        return _see(columns, queries, window)[:, None]

    def make_room(self) -> None:
        """Make room for a token of each row."""
        rows, _, columns, _ = self._layers[0][0].shape
        if max(self._lengths) == columns:
            self._grow(rows, columns + GROWTH)

    def write(self, index: int, keys: Tensor, values: Tensor) -> Layer:
        """Add a token to each row in one layer, and return the layer's keys and values.

        Args:
            index: of the layer.
            keys: (rows, heads, 1, size).
            values: (rows, heads, 1, size).
        """
        all_keys, all_values = self._layers[index]
        all_keys[self._rows, :, self._ends[:, 0]] = keys[:, :, 0]
        all_values[self._rows, :, self._ends[:, 0]] = values[:, :, 0]
        count, total = len(self), max(self._lengths) + 1
        return all_keys[:count, :, :total], all_values[:count, :, :total]

    def advance(self) -> None:
        """Count the token that each layer has got."""
        self._lengths = [length + 1 for length in self._lengths]
        self._ends = self._ends + 1

    def follow(self, index: int, keys: Tensor, values: Tensor) -> Layer:
        """Return a layer's keys and values with those of tokens that are not kept."""
        old_keys, old_values = self._used(index)
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)

    def select(self, rows: Sequence[int]) -> "RowCache":
        """Return a cache of these rows; a row may come several times, or not at all."""
        if list(rows) == list(range(len(self))):
            return self
        chosen = torch.tensor(rows, device=self._ends.device)
        layers = []
        for index in range(len(self._layers)):
            keys, values = self._used(index)
            layers.append((keys.index_select(0, chosen), values.index_select(0, chosen)))
        return RowCache(layers, [self._lengths[row] for row in rows])

    def reorder(self, parents: Tensor) -> None:
        """Let each row go on from another, which has the same prompt.

        Args:
            parents: (rows,) int64.
        """
        for index in range(len(self._layers)):
            for used in self._used(index):
                written = used[:, :, self._shared :]
                written.copy_(written.index_select(0, parents))

    def join(self, other: "RowCache", room: int) -> None:
        """Add the rows of another cache.

        Args:
            other: prompts.
            room: rows that there may be in all.
        """
        count, added, width = len(self), len(other), max(other._lengths)
        rows, _, columns, _ = self._layers[0][0].shape
        if count + added > rows or width > columns:
            self._grow(max(count + added, room), max(width, columns))
        for index, layer in enumerate(self._layers):
            for part, new in zip(layer, other._used(index), strict=True):
                part[count : count + added, :, :width] = new
        self._shared = min(self._shared, other._shared)
        self._place([*self._lengths, *other._lengths])

    def keep(self, rows: Sequence[int]) -> None:
        """Keep as many rows as are given, in this order; few of them should move."""
        moved = [(place, row) for place, row in enumerate(rows) if place != row]
        if moved:
            places, sources = (
                torch.tensor(one, device=self._ends.device) for one in zip(*moved, strict=True)
            )
            for index in range(len(self._layers)):
                for used in self._used(index):
                    used.index_copy_(0, places, used.index_select(0, sources))
        self._place([self._lengths[row] for row in rows])

    def _used(self, index: int) -> Layer:
        keys, values = self._layers[index]
        count, width = len(self), max(self._lengths)
        return keys[:count, :, :width], values[:count, :, :width]

    def _place(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)
        device = self._layers[0][0].device
        self._ends = torch.tensor(self._lengths, device=device)[:, None]
        self._rows = torch.arange(len(self._lengths), device=device)

    def _grow(self, rows: int, columns: int) -> None:
        for index in range(len(self._layers)):
            keys, values = (_widen(part, rows, columns) for part in self._used(index))
            self._layers[index] = (keys, values)


def _see(columns: Tensor, queries: Tensor, window: int | None) -> Tensor:
    """Return which columns are no later than a query, and within its window."""
    seen = columns <= queries
    return seen if window is None else seen & (columns > queries - window)


def _widen(part: Tensor, rows: int, columns: int) -> Tensor:
    """Return a tensor with room for more; what is never seen must be finite, for it is multiplied by 0."""
    wider = part.new_zeros(rows, part.shape[1], columns, part.shape[3])
    wider[: part.shape[0], :, : part.shape[2]] = part
    return wider
