"""How the examples of a training are sorted by length, and what that saves."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
from accelerate import PartialState
from transformers import TrainingArguments

from finetune.data.batches.grouping import GroupedStream, Grouping, Passes
from finetune.data.batches.order import ExampleStream, divide_batch
from finetune.speed import Technique, switched_off
from finetune.training.options import TrainerConfig

_MEASURED = 4096
"""Examples, at least one step, by which padding is estimated."""


def choose_grouping(
    options: TrainerConfig, lengths: np.ndarray | None, arguments: TrainingArguments
) -> tuple[Grouping | None, Technique]:
    """Decide whether the examples of a step, or of several, are sorted by length.

    Args:
        options: options of the training.
        lengths: see `Data.lengths`.
        arguments: as `build_arguments` made them of the options.

    Returns:
        How they are sorted, None if they are not, and a line for the log.
    """
    name, steps = "group_lengths", options.speed.group_steps
    size, passes = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    step = Passes(size, PartialState().num_processes, passes)
    if not options.speed.group_lengths:
        return None, switched_off(name)
    if lengths is None:
        return None, Technique(name, False, "the lengths of the examples are not known")
    # Processes wait for each other at its end: the longest example decides, whoever has it.
    if step.passes == 1 and steps == 1:
        why = "a step is one forward pass; trainer.speed.group_steps sorts several steps"
        return None, Technique(name, False, why)
    if lengths.min() == lengths.max():
        return None, Technique(name, False, "all examples have the same length")
    # As one process would divide the batch: with more of them, a step still has the same examples.
    size, _ = divide_batch(step.batch, options.per_device_train_batch_size, 1, 1)
    grouping = Grouping(lengths, steps, size)
    return grouping, Technique(name, True, _describe(grouping, step))


def _describe(grouping: Grouping, step: Passes) -> str:
    """Return what is sorted, and how many tokens are padding with it and without."""
    count = max(_MEASURED // step.batch, 1) * step.batch * grouping.steps
    stream = ExampleStream([len(grouping.lengths)], count, seed=0)
    before = measure_padding(grouping.lengths, stream, step)
    after = measure_padding(grouping.lengths, GroupedStream(stream, grouping, step), step)
    within = (
        "a step"
        if grouping.steps == 1
        else f"{grouping.steps} steps, which changes which examples share a step"
    )
    shares = f"{100 * after:.1f} % of the tokens are padding, {100 * before:.1f} % without"
    return f"examples of {within} sorted: {shares}"


def measure_padding(lengths: np.ndarray, order: Iterable[tuple[int, int]], step: Passes) -> float:
    """Return which share of the tokens of a training's beginning is padding.

    Args:
        lengths: of each example.
        order: whole steps of them.
        step: how each is divided.
    """
    count = max(_MEASURED // step.batch, 1) * step.batch
    drawn = lengths[[index for _, index in islice(order, count)]]
    return 1 - int(drawn.sum()) / step.count_padded(drawn)
