"""Examples of similar length in the same forward pass, because a batch is padded to its longest row.

The loss of an optimizer step is divided by the items of all of its forward passes and processes. How the
step's examples are divided among them therefore changes neither loss nor gradient, and they may be sorted.
Across steps, sorting changes which examples share a step: only on request (`Grouping.steps`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from finetune.data.batches.order import ExampleStream

_SHUFFLE = 0x67726F7570
"""Keeps the order of the groups apart from that of the examples, which has the same seed."""


class Grouping(NamedTuple):
    """By what examples are sorted, and among how many."""

    lengths: np.ndarray
    """(examples of the split,) tokens of each."""
    steps: int = 1
    """Optimizer steps whose examples are sorted together."""
    size: int = 1
    """Examples that stay together when groups are spread over several steps."""


@dataclass(frozen=True)
class Passes:
    """One optimizer step: in each of its forward passes, every process takes as many examples."""

    size: int
    """Examples of one process in one forward pass."""
    processes: int
    passes: int

    @property
    def batch(self) -> int:
        """Examples of the step."""
        return self.size * self.processes * self.passes

    def deal(self, lengths: np.ndarray) -> np.ndarray:
        """Sort the examples of one step into forward passes.

        Neighbors in length go to the same pass, to all processes, which take turns in getting its longest.
        The longest come first, so that a batch that does not fit in memory is noticed at once.

        Args:
            lengths: (examples of the step,) of each.

        Returns:
            (examples of the step,) their places, as `BatchSamplerShard` of accelerate deals them: pass by
            pass, and within it process by process.
        """
        order = np.argsort(-lengths, kind="stable").reshape(-1, self.processes, self.size)
        order[1::2] = order[1::2, ::-1]
        return order.ravel()

    def count_padded(self, lengths: np.ndarray) -> int:
        """Return the tokens of steps, with padding.

        Args:
            lengths: of their examples, in the order in which they are dealt.
        """
        return int(lengths.reshape(-1, self.size).max(1).sum()) * self.size


@dataclass(frozen=True, eq=False)
class GroupedStream(Sampler[tuple[int, int]]):
    """The pairs of a stream, each step (or window of steps) of it sorted by length.

    The order depends on seed and lengths alone, so that a resumed run continues exactly.
    """

    stream: ExampleStream
    """Its draws are whole steps."""
    grouping: Grouping
    step: Passes

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draws, number = iter(self.stream), 0
        while window := list(islice(draws, self.step.batch * self.grouping.steps)):
            lengths = self.grouping.lengths[[index for _, index in window]]
            spread = self._spread(lengths, number)
            for places in spread.reshape(-1, self.step.batch):
                for place in places[self.step.deal(lengths[places])]:
                    yield window[place]
            number += 1

    def _spread(self, lengths: np.ndarray, number: int) -> np.ndarray:
        """Return the places of a window's examples, in groups of similar length and random order."""
        if self.grouping.steps == 1:
            return np.arange(len(lengths))
        groups = np.argsort(-lengths, kind="stable").reshape(-1, self.grouping.size)
        random = np.random.default_rng((_SHUFFLE, self.stream.seed, number))
        return random.permutation(groups).ravel()
