"""The data of a job: both splits as checked examples, with what makes batches of them."""

from typing import NamedTuple

from transformers import PaliGemmaProcessor

from finetune.assembly.examples import (
    Skipped,
    build_collators,
    build_train,
    build_validation,
    check_validation,
)
from finetune.assembly.sources import build_task, load_splits
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.rows import Splits
from finetune.metrics.metric import Metric
from finetune.tasks.task import Task


class Validation(NamedTuple):
    """The split that is scored."""

    examples: ExampleDataset
    task: Task
    collator: Collator
    """Makes batches of it."""
    dropped: Skipped
    """What was left out of it, and why."""


class Data(NamedTuple):
    """Both splits."""

    train: ExampleDataset
    validation: ExampleDataset
    task: Task
    collator: Collator
    """Makes batches to train on."""
    evaluation_collator: Collator
    splits: Splits
    """The rows that the examples are made of."""
    dropped: Skipped
    """What was left out of either split, and why."""


def assemble_data(
    options: RunConfig, processor: PaliGemmaProcessor, metric: Metric, *, codec: bool = True
) -> Data:
    """Load and check both splits.

    Args:
        options: of the run.
        processor: the checkpoint's.
        metric: scores an empty answer to each example to evaluate on.
        codec: whether the task can write and read masks; see `build_task`.

    Raises:
        UserError: the data cannot be read, or does not fit task, metric or text lengths.
    """
    collator, evaluation_collator = build_collators(options, processor)
    splits = load_splits(options)
    task = build_task(options, splits, codec)
    train, dropped = build_train(options, splits, task, collator)
    validation = build_validation(options, splits, task)
    validation, refused = check_validation(options, validation, evaluation_collator, metric)
    dropped = [*_faults(splits), *dropped, *refused]
    return Data(train, validation, task, collator, evaluation_collator, splits, dropped)


def assemble_validation(options: RunConfig, processor: PaliGemmaProcessor, metric: Metric) -> Validation:
    """Load and check the split that is scored, without the training split where nothing of it is needed.

    Raises:
        UserError: see `assemble_data`.
    """
    _, collator = build_collators(options, processor)
    splits = load_splits(options, training=False)
    task = build_task(options, splits)
    examples = build_validation(options, splits, task)
    examples, refused = check_validation(options, examples, collator, metric)
    return Validation(examples, task, collator, [*_faults(splits), *refused])


def _faults(splits: Splits) -> Skipped:
    return [{"reason": fault} for fault in splits.skipped]
