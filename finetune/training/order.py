"""The order of the examples: one stream over all epochs, a function of the seed alone.

Batches cross the borders of epochs, as in big_vision: every batch is full, no example is seen twice in
an epoch, several processes draw disjoint parts, and a resumed run goes on where it stopped.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from finetune.errors import UserError


class ExampleStream(Sampler[tuple[int, int]]):
    """Draws (epoch, index) pairs.

    Args:
        examples: number of examples in the split.
        draws: number of pairs: steps times the global batch.
        seed: of the order.
    """

    def __init__(self, examples: int, draws: int, seed: int) -> None:
        self.examples = examples
        self.draws = draws
        self.seed = seed

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, left = 0, self.draws
        while left > 0:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.examples)
            for index in order[:left]:
                yield epoch, int(index)
            left -= self.examples
            epoch += 1


def divide_batch(
    global_batch: int | None, per_device: int, accumulation: int, processes: int
) -> tuple[int, int]:
    """Divide the batch of one optimiser step among processes and forward passes.

    Args:
        global_batch: examples of one step over all processes; null keeps the next two as they are.
        per_device: the most examples of one forward pass.
        accumulation: forward passes of one step.
        processes: one a device.

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
    """Return the number of optimiser steps, as big_vision rounds it.

    Args:
        examples: in the training split.
        batch: examples of one optimiser step, over all devices.
        epochs: passes over the split; may be a fraction.
        max_steps: where positive, the answer.
    """
    return max_steps if max_steps > 0 else max(1, round(epochs * examples / batch))
