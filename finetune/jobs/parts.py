"""From the configuration to the parts: the one place where both are known."""

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.config.datasets import MixtureDataset
from finetune.config.schema import Overflow, PeftMethod, RunConfig
from finetune.data.augment import Augmentation
from finetune.data.classes import ask_for_one_class, find_labels
from finetune.data.collator import Collator
from finetune.data.dataset import ExampleDataset
from finetune.data.mixture import first_rows, mix_splits, part_ranges
from finetune.data.rows import Splits, shared_examples
from finetune.errors import UserError
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.evaluation.generate import Generation
from finetune.jobs.mask_codec import find_mask_vae
from finetune.jobs.target import call_target
from finetune.metrics.metric import Metric
from finetune.model.freeze import FreezePolicy, apply_freeze
from finetune.model.load import load_model
from finetune.model.lora import AdapterSettings, Quantization, add_adapter
from finetune.processes import main_first
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsTask
from finetune.tasks.task import Answer, Task
from finetune.training.loss import compute_example_losses, supervised_positions

log = logging.getLogger(__name__)


class _BesideTheBar(logging.Handler):
    """Writes a line above a progress bar that is being drawn, instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def set_up_logging(file: Path | None = None) -> None:
    """Send our lines to the terminal and, in the main process, to a file; libraries only warn."""
    main = PartialState().is_main_process
    logger = logging.getLogger("finetune")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if main else logging.ERROR)
    handlers: list[logging.Handler] = [_BesideTheBar()]
    if file is not None and main:
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def load_splits(config: RunConfig, training: bool = True) -> Splits:
    """Load the rows of both splits; the main process fills the cache for the others.

    Args:
        config: names the source.
        training: an empty training split is a mistake.

    Raises:
        UserError: the source's own; or a split is empty.
    """
    splits = main_first(lambda: _load_source(config.dataset))
    if not isinstance(splits, Splits):
        raise UserError(f"dataset._target_ must return Splits(train, validation), got {splits!r}.")
    for name, rows in (("train", splits.train), ("validation", splits.validation)):
        if len(rows) == 0 and (training or name == "validation"):
            raise UserError(f"The {name} split has no rows.")
    if splits.skipped:
        first, count = splits.skipped[0], len(splits.skipped)
        log.warning("warning: faults left out of the data: %d; the first: %s", count, first)
    return splits


def _load_source(node: Any) -> Any:
    """Load one source, or each of a mixture's."""
    if not isinstance(node, MixtureDataset):
        return call_target(node)
    parts = {}
    for name, part in node.parts.items():
        splits = _load_source(part["source"])
        parts[name] = splits._replace(train=first_rows(splits.train, part.get("limit")))
    return mix_splits(parts)


def build_task(config: RunConfig, splits: Splits) -> Task:
    """Build the task, or those of a mixture's parts."""
    if not isinstance(config.dataset, MixtureDataset):
        return _build_task(config.task, splits)
    ranges = part_ranges(splits.train)
    own = {name: splits.train.select(ranges.get(name, range(0))) for name in config.dataset.parts}
    return MixedTask(
        {
            name: _build_task(part["task"], splits._replace(train=own[name]))
            for name, part in config.dataset.parts.items()
        }
    )


def _build_task(node: Any, splits: Splits) -> Task:
    """Build a task; the classes are those of the training split, unless it names its own."""
    task: Task = call_target(node)
    if not isinstance(task, ObjectsTask):
        return task
    if task.labels is None:
        labels = find_labels(splits.train if len(splits.train) else splits.validation)
        if not labels and task.write_label:
            raise UserError(
                "The classes are those of the training split, and no row of it has an object. Name them: "
                "task.labels=[cat,dog]."
            )
        task = replace(task, labels=labels)
    if task.masks and task.mask_vae is not None:
        setting = task.mask_vae
        task = replace(task, mask_vae=str(main_first(lambda: find_mask_vae(setting, splits.train))))
    return task


def _arrange_rows(config: RunConfig, rows: Dataset, task: Task, training: bool) -> Dataset:
    if not isinstance(task, ObjectsTask) or task.classes != "one":
        return rows
    negatives = task.negatives if training else None
    return ask_for_one_class(rows, task.labels or (), negatives)


def limit_train(config: RunConfig, splits: Splits) -> Dataset:
    """Return the rows to train on, the first `trainer.limit` of them; of a mixture as many of each part."""
    return first_rows(splits.train, config.trainer.limit)


def build_train(
    config: RunConfig, splits: Splits, task: Task, collator: Collator
) -> tuple[ExampleDataset, list[dict[str, str]]]:
    """Build the examples to train on.

    Returns:
        The examples, and what was left out as too long, with the reason.

    Raises:
        UserError: a column is missing, a text is too long under `collator.overflow=error`, or has boxes
            that the augmentation would move.
    """
    rows = _arrange_rows(config, limit_train(config, splits), task, training=True)
    augmentation = build_augmentation(config)
    train = ExampleDataset(rows, task, "train", seed=config.seed, augment=augmentation)
    if augmentation is not None and augmentation.moves:
        for row in train.iterate_rows():
            augmentation.check_row(row)
    overflow, budget = config.collator.overflow, config.collator.max_text_length
    shorten = overflow == Overflow.shorten_prefix
    found = train.find_overflow(collator.count_text_tokens, budget, shorten)
    if found and overflow == Overflow.error:
        first = "; ".join(list(found.values())[:3])
        raise UserError(
            f"{len(found)} of {len(train)} train examples are too long: {first}. Raise "
            "collator.max_text_length, or choose collator.overflow=drop or shorten_prefix."
        )
    if len(found) == len(train):
        raise UserError(f"All {len(train)} train examples are longer than {budget} text tokens.")
    if not found:
        return train, []
    log.warning("warning: left out %d of %d train examples: too long.", len(found), len(train))
    dropped = [{"id": train.rows[index]["id"], "reason": why} for index, why in found.items()]
    return train.select([index for index in range(len(train)) if index not in found]), dropped


def build_augmentation(config: RunConfig) -> Augmentation | None:
    """Return what `augmentation` describes; null where it changes nothing."""
    options = {name: value for name, value in asdict(config.augmentation).items() if value is not None}
    augmentation = Augmentation(**{**options, "resize": tuple(config.augmentation.resize)})
    return augmentation if augmentation.moves or augmentation.recolours else None


def build_validation(config: RunConfig, splits: Splits, task: Task) -> ExampleDataset:
    """Build the examples to evaluate on, the first `evaluation.limit` of them.

    Raises:
        UserError: a column is missing.
    """
    rows = _arrange_rows(config, splits.validation, task, training=False)
    return ExampleDataset(first_rows(rows, config.evaluation.limit), task, "validation")


def check_references(metric: Metric, validation: ExampleDataset) -> None:
    """Write every validation example's text and score an empty answer, before anything slow is done.

    Raises:
        UserError: an example lacks what its prompt or the metric needs, such as a column's text or ten
            references, or has a class that is not in the list.
    """
    task = validation.task
    for row in validation.iterate_rows():
        task.measure_text(row)
        target = task.build_target(row)
        empty = {"prediction": "", "confidence": 0.0, **task.read_answer(Answer("", 0.0), target)}
        metric.score({"id": row["id"], "group": row["group"], **target, **empty})


def warn_of_shared_examples(splits: Splits) -> None:
    """Warn where validation examples also stand in train."""
    if shared := shared_examples(splits):
        log.warning(
            "warning: %d of %d validation examples also stand in train; the score will be too good.",
            shared,
            len(splits.validation),
        )


def build_collators(config: RunConfig, processor: PaliGemmaProcessor) -> tuple[Collator, Collator]:
    """Build the collator to train with and the one to evaluate with, which never cuts."""
    train = Collator(
        processor,
        max_text_length=config.collator.max_text_length,
        shorten_prefix=config.collator.overflow == Overflow.shorten_prefix,
        suffix_choice=config.collator.suffix_choice,
        seed=config.seed,
    )
    return train, Collator(processor)


def freeze_policy(config: RunConfig) -> FreezePolicy:
    """Return the policy that `freeze` describes."""
    return FreezePolicy(**asdict(config.freeze))


def adapter_settings(config: RunConfig) -> AdapterSettings:
    """Return the adapter that `peft` describes."""
    names = AdapterSettings.__dataclass_fields__
    return AdapterSettings(**{name: getattr(config.peft, name) for name in names})


def quantization(config: RunConfig) -> Quantization | None:
    """Return the quantisation that `peft` describes; null for 16 bits."""
    if config.peft.bits == 16:
        return None
    return Quantization(
        bits=config.peft.bits,
        towers=tuple(config.peft.quantize),
        double_quant=config.peft.double_quant,
        compute_dtype=torch.float16 if config.trainer.fp16 else torch.bfloat16,
    )


def load_base(config: RunConfig, checkpoint: PaliGemmaConfig) -> PaliGemmaForConditionalGeneration:
    """Load the base model, quantised where `peft.bits` says so."""
    return load_model(
        config.model.path,
        checkpoint,
        revision=config.model.revision,
        dtype=getattr(torch, config.model.dtype),
        attention=config.model.attention,
        final_logit_softcap=config.model.final_logit_softcap,
        quantization=quantization(config),
        device=PartialState().device,
    )


def prepare_model(config: RunConfig, model: PaliGemmaForConditionalGeneration) -> nn.Module:
    """Freeze what is frozen and add what is adapted."""
    if config.peft.method == PeftMethod.none:
        apply_freeze(model, freeze_policy(config))
        return model
    return add_adapter(model, freeze_policy(config), adapter_settings(config))


def half_precision(config: RunConfig) -> torch.autocast:
    """Return the context in which the model computes: bfloat16 or float16, as the trainer says."""
    half = torch.float16 if config.trainer.fp16 else torch.bfloat16
    enabled = config.trainer.bf16 or config.trainer.fp16
    return torch.autocast(PartialState().device.type, half, enabled=enabled)


Evaluator = Callable[[nn.Module], Evaluation]
"""Scores a model over the validation split."""


def build_evaluator(
    config: RunConfig,
    dataset: ExampleDataset,
    collator: Collator,
    processor: PaliGemmaProcessor,
    metric: Metric,
) -> Evaluator:
    """Bind split, metric, generation, precision and loss; the model comes when there is one."""
    options = config.evaluation
    generation = Generation(
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        workers=config.trainer.dataloader_num_workers,
    )

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        labels = batch.pop("labels")
        keep = supervised_positions(labels)
        logits = model(**batch, logits_to_keep=keep, use_cache=False).logits
        return compute_example_losses(logits, labels)

    def run(model: nn.Module) -> Evaluation:
        return evaluate(
            model,
            dataset,
            collator,
            processor.tokenizer,
            metric,
            generation,
            compute_loss=losses if options.loss else None,
            autocast=half_precision(config),
        )

    return run


def format_scores(scores: dict[str, Any]) -> str:
    """Lay scores out as one line; groups stand in metrics.json."""
    values = {name: value for name, value in scores.items() if not isinstance(value, dict)}
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
