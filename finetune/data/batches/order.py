"""The order of the examples: one stream over all epochs, determined by the seed alone.

Batches may span two epochs, as in big_vision: every batch is full, no example is seen twice in an epoch,
several processes draw disjoint parts, and a resumed run continues where it stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from torch.utils.data import Sampler

from finetune.errors import UserError


@dataclass(frozen=True, eq=False)
class ExampleStream(Sampler[tuple[int, int]]):
    """Draws (epoch, index) pairs.

    The parts of a mixture, concatenated in the split, are drawn by weight: each has its own stream, and the
    one furthest below its share goes next. So every section of the stream has the parts in proportion, and
    a small part with a large weight starts its next epoch before a large part does.
    """

    parts: Sequence[int]
    """Examples of each part; one part where the split is not a mixture."""
    draws: int
    """Number of pairs: steps times the global batch."""
    seed: int
    weights: Sequence[float] | None = None
    """Of the parts; None: their numbers of examples."""

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        streams = [self._stream(number) for number in range(len(self.parts))]
        if len(streams) == 1:
            yield from islice(streams[0], self.draws)
            return
        drawn, weights = [0] * len(streams), self.weights or self.parts
        for _ in range(self.draws):
            part = min(range(len(streams)), key=lambda p: ((drawn[p] + 1) / weights[p], p))
            drawn[part] += 1
            yield next(streams[part])

    def _stream(self, part: int) -> Iterator[tuple[int, int]]:
        """Yield the pairs of one part, endlessly."""
        start = sum(self.parts[:part])
        seed = (self.seed,) if len(self.parts) == 1 else (self.seed, part)
        for epoch in count():
            for index in np.random.default_rng((*seed, epoch)).permutation(self.parts[part]):
                yield epoch, start + int(index)


def divide_batch(
    global_batch: int | None, per_device: int, accumulation: int, processes: int
) -> tuple[int, int]:
    """Divide the batch of one optimizer step among processes and forward passes.

    Args:
        global_batch: examples of one step over all processes; None keeps the next two as they are.
        per_device: the most examples of one forward pass.
        accumulation: forward passes of one step.
        processes: one per device.

    Returns:
        Examples of one forward pass, and forward passes of one step.

    Raises:
        UserError: the batch cannot be divided evenly among the processes.
    """
    if global_batch is None:
        return per_device, accumulation
    share, rest = divmod(global_batch, processes)
    if rest:
        raise UserError(
            f"trainer.global_batch_size={global_batch} cannot be divided evenly among {processes} "
            f"processes. Choose a multiple of {processes}."
        )
    size = next(size for size in range(min(per_device, share), 0, -1) if share % size == 0)
    return size, share // size


def count_steps(examples: int, batch: int, epochs: float, max_steps: int) -> int:
    """Return the number of optimizer steps, as big_vision rounds it.

    Args:
        examples: in the training split.
        batch: examples of one optimizer step, over all devices.
        epochs: passes over the split; may be a fraction.
        max_steps: returned as it is if it is positive.
    """
    return max_steps if max_steps > 0 else max(1, round(epochs * examples / batch))
