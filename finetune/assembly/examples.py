"""The examples of both splits, checked before anything slow is done."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from PIL.Image import Resampling
from transformers import PaliGemmaProcessor

from finetune.assembly.overflow import leave_out_overflow
from finetune.assembly.pixels import choose_antialias
from finetune.assembly.sources import build_source
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.data.batches.options import Overflow, Resize
from finetune.data.examples.augment import Augmentation
from finetune.data.examples.classes import expand_per_class, find_labels
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.mixture import first_rows
from finetune.data.examples.survey import Check, find_broken_images, survey_rows
from finetune.data.options import Source
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.metrics.metric import Metric, compute_by_group
from finetune.processes import share
from finetune.tasks.mixture import PART
from finetune.tasks.objects import PromptClasses, list_names, object_tasks
from finetune.tasks.task import Answer, Row, Task

log = logging.getLogger(__name__)

LONGEST_REFERENCE = 2048
"""Text tokens of an example that is evaluated, at most, unless `collator.max_text_length` is more.

Attention and logits of what no training could have taught would fill any memory."""

Skipped = list[dict[str, str]]
"""Lines of `skipped.jsonl`."""


def limit_train(config: RunConfig, splits: Splits) -> Dataset:
    """Return the rows to train on, the first `trainer.limit` of them; of a mixture as many of each part."""
    return first_rows(splits.train, config.trainer.limit)


def build_train(
    config: RunConfig, splits: Splits, task: Task, collator: Collator
) -> tuple[ExampleDataset, Skipped]:
    """Build the examples to train on, and check each of them.

    Returns:
        The examples, and what was left out: faults under `dataset.on_error=skip`, and what is too long.

    Raises:
        UserError: a column is missing, a row cannot be used, or a text is too long under
            `collator.overflow=error`.
    """
    rows = _arrange_rows(config, limit_train(config, splits), task, training=True)
    augmentation = build_augmentation(config)
    train = ExampleDataset(
        rows,
        task,
        "train",
        seed=config.seed,
        augment=augmentation,
        antialias=choose_antialias(config, "train"),
    )

    def check(row: Row, target: Mapping[str, Any]) -> None:
        if augmentation is not None:
            augmentation.check_row(row)

    train, skipped = _leave_out_faults(config, train, collator, check)
    train, too_long = leave_out_overflow(config, train, collator)
    train, broken = _leave_out_broken_images(config, train)
    return train, [*skipped, *too_long, *broken]


def build_validation(config: RunConfig, splits: Splits, task: Task) -> ExampleDataset:
    """Build the examples to evaluate on, the first `evaluation.limit` of them.

    Raises:
        UserError: a column is missing.
    """
    rows = _arrange_rows(config, splits.validation, task, training=False)
    first = first_rows(rows, config.evaluation.limit)
    return ExampleDataset(first, task, "validation", antialias=choose_antialias(config, "validation"))


def check_validation(
    config: RunConfig, validation: ExampleDataset, collator: Collator, metric: Metric
) -> tuple[ExampleDataset, Skipped]:
    """Check every example to evaluate on, and score an empty answer to each, and to all of them together.

    Returns:
        The examples, and what was left out under `dataset.on_error=skip`.

    Raises:
        UserError: a row cannot be used, or the metric lacks something, such as ten references, or the
            second row of a pair.
    """
    task = validation.task
    answers: list[dict[str, Any]] = []

    def check(row: Row, target: Mapping[str, Any]) -> None:
        empty = {"prediction": "", "confidence": 0.0, **task.read_answer(Answer("", 0.0), target)}
        answer = {"id": row["id"], "group": row["group"], **target, **empty}
        metric.score(answer)
        answers.append(answer)

    most = max(LONGEST_REFERENCE, config.collator.max_text_length)
    validation, skipped = _leave_out_faults(config, validation, collator, check, most)
    compute_by_group(metric, answers)
    validation, broken = _leave_out_broken_images(config, validation)
    return validation, [*skipped, *broken]


def _leave_out_faults(
    config: RunConfig,
    examples: ExampleDataset,
    collator: Collator,
    check: Check,
    most_tokens: int | None = None,
) -> tuple[ExampleDataset, Skipped]:
    found = survey_rows(examples, collator, check, most_tokens)
    if found.text_boxes:
        log.warning(
            "warning: %d of %d %s examples have boxes (`<loc....>`) in an answer that is compared as text; "
            "task=box_text metric=detection scores them as boxes.",
            found.text_boxes,
            len(examples),
            examples.split,
        )
    _refuse(config, examples, found.faults)
    return _leave_out(examples, found.faults)


def _leave_out_broken_images(config: RunConfig, examples: ExampleDataset) -> tuple[ExampleDataset, Skipped]:
    if not config.check_images:
        return examples, []
    state = PartialState()
    part = range(state.process_index, len(examples), state.num_processes)
    found = share(find_broken_images(examples, config.trainer.dataloader_num_workers, part))
    faults = dict(sorted(pair for faults in found for pair in faults.items()))
    _refuse(config, examples, faults)
    return _leave_out(examples, faults)


def _refuse(config: RunConfig, examples: ExampleDataset, faults: Mapping[int, str]) -> None:
    """Report faults: an error, or a warning where all of them are to be skipped.

    Raises:
        UserError: a fault may not be skipped, or no row is left.
    """
    if not faults:
        return
    source = build_source(config.dataset)
    settings = {index: _skips(source, examples, index) for index in faults}
    fatal = [index for index in faults if not settings[index]]
    index = fatal[0] if fatal else next(iter(faults))
    place = source.describe(examples.split)
    first = f"{examples.split} ({place}): {faults[index].removesuffix('.')}."
    if fatal:
        more = f" {len(fatal) - 1} more {examples.split} rows have faults." if len(fatal) > 1 else ""
        remedy = (
            " Or leave out what is wrong: dataset.on_error=skip." if settings[index] is not None else ""
        )
        raise UserError(f"{first}{_explain_classes(config, examples)}{more}{remedy}")
    if len(faults) == len(examples):
        raise UserError(f"All {len(examples)} {examples.split} rows have faults; the first: {first}")
    log.warning(
        "warning: left out %d of %d %s examples with faults; the first: %s",
        len(faults),
        len(examples),
        examples.split,
        first,
    )


def _explain_classes(config: RunConfig, examples: ExampleDataset) -> str:
    """Return what to do about classes that the training split lacks, from which the list was taken."""
    task = object_tasks(examples.task).get("")
    if task is None or not task.options.write_label or config.task.labels is not None:
        return ""
    labels = task.options.labels or []
    unseen = [label for label in find_labels(examples.rows) if label not in labels]
    if not unseen:
        return ""
    whole = "" if len(labels) + len(unseen) > 20 else f" (task.labels=[{','.join([*labels, *unseen])}])"
    return (
        f" The list is that of the training split; only the validation split has {list_names(unseen)}. "
        f"Name all classes{whole}, or correct the spelling."
    )


def _skips(source: Source, examples: ExampleDataset, index: int) -> bool | None:
    """Return whether a row's source leaves faults out; None where it has no such option."""
    parts = source.mixed_parts()
    skips: bool | None = (parts[examples.rows[index][PART]].source if parts else source).skips_faults
    return skips


def _leave_out(examples: ExampleDataset, faults: Mapping[int, str]) -> tuple[ExampleDataset, Skipped]:
    if not faults:
        return examples, []
    lines = [
        {"split": examples.split, "id": examples.rows[index]["id"], "reason": reason}
        for index, reason in faults.items()
    ]
    return examples.select([index for index in range(len(examples)) if index not in faults]), lines


def _arrange_rows(config: RunConfig, rows: Dataset, task: Task, training: bool) -> Dataset:
    objects = object_tasks(task).get("")
    if objects is None or objects.options.classes != PromptClasses.one:
        return rows
    return expand_per_class(rows, partial(objects.options.ask_classes, training=training))


def build_augmentation(config: RunConfig) -> Augmentation | None:
    """Return what `augmentation` describes; None where it changes nothing."""
    options = config.augmentation
    return Augmentation(options) if options.moves or options.recolors else None


def build_collators(config: RunConfig, processor: PaliGemmaProcessor) -> tuple[Collator, Collator]:
    """Build the collator to train with and the one to evaluate with, which never cuts."""
    train = Collator(
        processor,
        max_text_length=config.collator.max_text_length,
        shorten_prefix=config.collator.overflow == Overflow.shorten_prefix,
        suffix_choice=config.collator.suffix_choice,
        seed=config.seed,
        resize=config.image.resize,
    )
    # What is saved with the weights resizes alike, as far as transformers can.
    if config.image.resize != Resize.bicubic:
        processor.image_processor.resample = Resampling.BILINEAR
    return train, Collator(processor, resize=config.image.resize)
