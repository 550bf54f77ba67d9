"""Builds the data of a run from its options: rows, task, and the examples of both splits."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from datasets import Dataset
from PIL.Image import Resampling
from transformers import PaliGemmaProcessor

from finetune.assembly.empty_answers import EmptyAnswer, check_together
from finetune.assembly.faults import Skipped, leave_out_broken_images, leave_out_faults
from finetune.assembly.forms import check_forms
from finetune.assembly.lengths import (
    AnswerLengths,
    RowLengths,
    leave_out_overflow,
    measure_answers,
    measure_rows,
)
from finetune.assembly.pixels import choose_antialias
from finetune.assembly.sources import build_source, build_task, load_splits, load_test, read_as_scored
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.data.batches.options import Overflow, Resize, Targets
from finetune.data.batches.workers import choose_workers
from finetune.data.examples.augment import Augmentation
from finetune.data.examples.classes import expand_per_class
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.fingerprint import digest_texts, fingerprint
from finetune.data.examples.inspection import Check
from finetune.data.examples.mixture import first_rows
from finetune.data.examples.options import AugmentationConfig
from finetune.data.examples.survey import Survey, survey_rows
from finetune.data.rows import Splits
from finetune.metrics.metric import Metric
from finetune.processes import main_first, on_main
from finetune.tasks.objects import PromptClasses, object_tasks
from finetune.tasks.task import Task

log = logging.getLogger(__name__)

LONGEST_REFERENCE = 2048
"""Most text tokens of a validation example, unless `collator.max_text_length` is more.

Evaluation never cuts or drops, since a score over other examples is another score. But a reference longer
than any training text is a fault in the data, and its attention and logits would exhaust the memory."""


@dataclass(frozen=True)
class Data:
    """The examples of a run."""

    train: ExampleDataset | None
    """The training split; None for a job that does not train."""
    lengths: np.ndarray | None
    """Tokens of each training example, estimated: (len(train),) int32."""
    validation: ExampleDataset
    """The validation split."""
    task: Task
    """Writes the texts of both splits, and reads answers."""
    dropped: Skipped
    """The rows that were left out, for `skipped.jsonl`."""
    answers: AnswerLengths
    """Lengths of the references."""
    shared: int
    """Number of validation examples that are also in the training split."""
    test: ExampleDataset | None
    """The test split of a training, if it has one: scored at the end, and nothing is chosen by it."""
    test_shared: Mapping[str, int]
    """Other split -> number of test examples that are also in it."""
    collator: Collator
    """Builds training batches."""
    evaluation_collator: Collator
    """Builds evaluation batches, without a text budget."""
    row_lengths: RowLengths | None = None
    """Of the training rows: the longest, the mean."""

    @property
    def splits(self) -> list[ExampleDataset]:
        """Those that there are, the training split first."""
        return [split for split in (self.train, self.validation, self.test) if split is not None]

    @cached_property
    def identity(self) -> dict[str, dict[str, Any]]:
        """What tells whether a resumed run has the rows that it was started with, by split.

        Without images, which would have to be read, and without the test split, of which nothing is
        computed before the end.
        """
        splits = {"train": self.train, "validation": self.validation}
        return {
            name: {"rows": len(examples), "digest": digest_texts(examples.rows)}
            for name, examples in splits.items()
            if examples is not None
        }


def build_data(
    config: RunConfig,
    processor: PaliGemmaProcessor,
    metric: Metric,
    *,
    training: bool = True,
    codec: bool = True,
    evaluated: str = "validation",
) -> Data:
    """Load the rows, build the task, and check every example: errors surface before the model loads.

    Args:
        config: options of the run.
        processor: processor of the checkpoint.
        metric: says how masks are read; checked by scoring an empty answer to each validation example.
        training: False omits the training split.
        codec: False builds a task that can neither write nor read masks; see `build_task`.
        evaluated: name of the split that is in the place of the validation split.

    Raises:
        UserError: a column is missing, a row cannot be used, a text is too long, or a split is empty.
    """
    collators = build_collators(config, processor)
    splits = load_splits(config, training)
    task = read_as_scored(build_task(config, splits, codec), metric)
    dropped: Skipped = [{"reason": fault} for fault in splits.skipped]
    train = None
    if training:
        train, left_out = build_train(config, splits, task, collators[0])
        dropped += left_out
    examples = build_validation(config, splits, task, evaluated)
    validation, left_out = check_validation(config, examples, collators[1], metric)
    dropped += left_out
    test = None
    if training and (tests := load_test(config)) is not None:
        dropped += [{"reason": fault} for fault in tests.skipped]
        examples = build_validation(config, tests, task, "test")
        test, left_out = check_validation(config, examples, collators[1], metric)
        dropped += left_out
    others = {} if test is None or train is None else {"train": train, "validation": validation}
    return Data(
        train=None if train is None else train.examples,
        lengths=None if train is None else train.estimate_lengths(),
        validation=validation.examples,
        task=task,
        dropped=dropped,
        answers=measure_answers(validation, train, config.evaluation.max_new_tokens),
        shared=0 if train is None else len(validation.find_shared(train)),
        test=None if test is None else test.examples,
        test_shared={name: len(test.find_shared(other)) for name, other in others.items() if test},
        collator=collators[0],
        evaluation_collator=collators[1],
        row_lengths=None if train is None else measure_rows(train, config.collator),
    )


def fingerprint_data(data: Data, evaluated: str = "validation") -> dict[str, dict[str, Any]]:
    """Return what identifies the data of a run, by split, for `metrics.json`; collective.

    Args:
        data: examples of the run.
        evaluated: see `build_data`.
    """
    splits = {"train": data.train, "test": data.test, evaluated: data.validation}
    named = {name: examples for name, examples in splits.items() if examples is not None}
    return on_main(
        lambda: {
            # Training draws rows by their place; a score is the same in any order.
            name: fingerprint(examples.rows, name, ordered=name == "train")
            for name, examples in named.items()
        }
    )


def build_train(
    config: RunConfig, splits: Splits, task: Task, collator: Collator
) -> tuple[Survey, Skipped]:
    """Build the training examples, limited to `trainer.limit`, and check each of them.

    Returns:
        The examples, and those left out: faults under `dataset.on_error=skip`, and texts that are too long.

    Raises:
        UserError: a column is missing, a row cannot be used, or a text is too long under
            `collator.overflow=error`.
    """
    train, skipped = _check_rows(config, build_train_examples(config, splits, task), collator)
    train, too_long = leave_out_overflow(train, config.collator)
    train, broken = _check_images(config, train)
    return train, [*skipped, *too_long, *broken]


def build_train_examples(config: RunConfig, splits: Splits, task: Task) -> ExampleDataset:
    """Build the training examples, limited to `trainer.limit`, without checking them.

    Raises:
        UserError: a column is missing.
    """
    return ExampleDataset(
        _arrange_rows(first_rows(splits.train, config.trainer.limit), task, training=True),
        task,
        "train",
        seed=config.seed,
        augment=build_augmentation(config.augmentation),
        antialias=choose_antialias(config, "train"),
    )


def build_validation(
    config: RunConfig, splits: Splits, task: Task, name: str = "validation"
) -> ExampleDataset:
    """Build the validation or test examples, limited to `evaluation.limit`.

    Raises:
        UserError: a column is missing.
    """
    rows = _arrange_rows(splits.validation, task, training=False)
    return ExampleDataset(
        first_rows(rows, config.evaluation.limit),
        task,
        name,
        antialias=choose_antialias(config, "validation"),
        grammar=config.evaluation.grammar,
    )


def check_validation(
    config: RunConfig, examples: ExampleDataset, collator: Collator, metric: Metric
) -> tuple[Survey, Skipped]:
    """Check every validation example, and score an empty answer to each and to all of them together.

    Returns:
        The examples, and those left out under `dataset.on_error=skip`.

    Raises:
        UserError: a row cannot be used, or the metric misses something, such as ten references or the
            second row of a pair.
    """
    empty = EmptyAnswer(examples.task, metric)
    most = max(LONGEST_REFERENCE, config.collator.max_text_length)
    validation, skipped = _check_rows(config, examples, collator, empty, most)
    on_main(lambda: check_together(validation, empty))
    validation, broken = _check_images(config, validation)
    on_main(lambda: check_forms(validation.examples))
    return validation, [*skipped, *broken]


def _check_rows(
    config: RunConfig,
    examples: ExampleDataset,
    collator: Collator,
    check: Check | None = None,
    most_tokens: int | None = None,
) -> tuple[Survey, Skipped]:
    survey = main_first(lambda: survey_rows(examples, collator, check))
    faults = survey.find_faults(most_tokens)
    if text_boxes := survey.count_text_boxes(faults):
        log.warning(
            "warning: %d of %d %s examples have boxes (`<loc....>`) in an answer that is compared as text; "
            "task=box_text metric=detection scores them as boxes.",
            text_boxes,
            len(examples),
            examples.split,
        )
    return leave_out_faults(survey, faults, build_source(config.dataset))


def _check_images(config: RunConfig, survey: Survey) -> tuple[Survey, Skipped]:
    if not config.check_images:
        return survey, []
    workers = choose_workers(config.trainer.dataloader_num_workers, len(survey)).processes
    return leave_out_broken_images(survey, build_source(config.dataset), workers)


def _arrange_rows(rows: Dataset, task: Task, training: bool) -> Dataset:
    objects = object_tasks(task).get("")
    if objects is None or objects.options.classes != PromptClasses.one:
        return rows
    return expand_per_class(rows, partial(objects.options.ask_classes, training=training))


def build_augmentation(options: AugmentationConfig) -> Augmentation | None:
    """Return the augmentation that the options describe; None if they change nothing."""
    return Augmentation(options) if options.moves or options.recolors else None


def build_collators(config: RunConfig, processor: PaliGemmaProcessor) -> tuple[Collator, Collator]:
    """Build the collator for training, and the one for evaluation, which never cuts or drops."""
    train = Collator(
        processor,
        max_text_length=config.collator.max_text_length,
        shorten_prefix=config.collator.overflow == Overflow.shorten_prefix,
        suffix_choice=config.collator.suffix_choice,
        every_suffix=config.collator.targets == Targets.all,
        seed=config.seed,
        resize=config.image.resize,
        uint8_pixels=config.trainer.speed.uint8_pixels,
    )
    # The processor that is saved with the weights resizes in the same way, as far as transformers can.
    if config.image.resize != Resize.bicubic:
        processor.image_processor.resample = Resampling.BILINEAR
    return train, Collator(
        processor, resize=config.image.resize, uint8_pixels=config.trainer.speed.uint8_pixels
    )


def warn_of_shared_examples(data: Data) -> None:
    """Warn of validation and test examples that are also in other splits."""
    if data.shared:
        log.warning(
            "warning: %d of %d validation examples are also in train; the score will be too high.",
            data.shared,
            len(data.validation),
        )
    for name, count in data.test_shared.items():
        if count:
            log.warning(
                "warning: %d of %d test examples are also in %s; the test score will be too high.",
                count,
                len(data.test or ()),
                name,
            )
