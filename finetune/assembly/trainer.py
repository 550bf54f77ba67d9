"""Translates options into transformers' training arguments."""

import logging
import tempfile
from dataclasses import fields
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from finetune.assembly.custom import build_metric
from finetune.config.schema import RunConfig
from finetune.data.batches.order import count_steps, divide_batch
from finetune.data.batches.workers import choose_prefetch, choose_workers
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.mixture import count_parts
from finetune.data.options import Mixture, Source
from finetune.errors import UserError
from finetune.generation.options import EvaluateWhen, EvaluationConfig
from finetune.metrics.metric import Metric, directions
from finetune.training.options import TrainerConfig

log = logging.getLogger(__name__)

_SAME_NAMES = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
    "logging_steps",
    "save_total_limit",
)
"""Options with the name and meaning of transformers'."""


def build_run_metric(config: RunConfig) -> Metric:
    """Build the metric, and check that it computes `evaluation.metric_for_best_model`.

    Raises:
        UserError: it does not; lists the fields that it computes.
    """
    metric = build_metric(config)
    name = config.evaluation.metric_for_best_model
    known = [field for field in directions(metric) if field != "loss" or config.evaluation.loss]
    if name is not None and name not in known:
        raise UserError(
            f"evaluation.metric_for_best_model={name}: the evaluation computes {', '.join(known)}."
        )
    return metric


def divide_run_batch(options: TrainerConfig, processes: int) -> tuple[int, int]:
    """Return the examples in one forward pass of a process, and the forward passes in one step."""
    # `global_batch_size` is the run's, not the device's: accumulation follows from the processes, so that
    # one and eight take the same steps. transformers' arguments are per device.
    return divide_batch(
        options.global_batch_size,
        options.per_device_train_batch_size,
        options.gradient_accumulation_steps,
        processes,
    )


def build_arguments(
    options: TrainerConfig,
    evaluation: EvaluationConfig,
    seed: int,
    metric: Metric,
    examples: int,
    *,
    stored: bool = False,
) -> TrainingArguments:
    """Translate the options into transformers' arguments.

    Args:
        options: options of the training.
        evaluation: when to evaluate, and which field chooses the best checkpoint.
        seed: seed of the run.
        metric: has the direction of its fields.
        examples: number of examples in the training split.
        stored: whether all images are on disk as pixels or features.

    Raises:
        UserError: transformers refuses them.
    """
    processes = PartialState().num_processes
    size, accumulation = divide_run_batch(options, processes)
    batch = size * accumulation * processes
    per_epoch = count_steps(examples, batch, 1, 0)  # one stream of steps: epochs would end in a short batch
    steps = count_steps(examples, batch, options.num_train_epochs, options.max_steps)
    loading = _describe_loading(options, steps * size * accumulation, stored)
    saving = _describe_saving(options, evaluation, metric, per_epoch)
    given = {"logging_first_step": True, **loading, **_read_extra(options)}
    try:
        arguments = TrainingArguments(
            # Trainer creates this folder when it is built; the run's folder is set once all is checked.
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            seed=seed,
            report_to=[],  # see run/trackers.py: transformers' callback ends the run if its server fails
            remove_unused_columns=False,
            label_names=["labels"],
            logging_nan_inf_filter=False,  # would log earlier losses in place of NaN
            ddp_find_unused_parameters=False,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **{name: getattr(options, name) for name in _SAME_NAMES},
            **saving,
            **given,
        )
        warmup = arguments.get_warmup_steps(arguments.max_steps)
    except (ValueError, TypeError, ImportError, AttributeError, KeyError, RuntimeError) as error:
        raise UserError(f"transformers refuses the trainer's settings: {error}") from error
    if warmup > arguments.max_steps:
        raise UserError(
            f"trainer.warmup_steps={options.warmup_steps}: the run has {arguments.max_steps} steps. Give "
            "fewer, or a share of all steps below 1."
        )
    return arguments


def _describe_loading(options: TrainerConfig, images: int, stored: bool) -> dict[str, object]:
    """Return the arguments of the loader of a process that needs some number of images."""
    workers = choose_workers(options.dataloader_num_workers, images, stored=stored).processes
    on_gpu = torch.cuda.is_available()
    return {
        "dataloader_num_workers": workers,
        "dataloader_prefetch_factor": choose_prefetch(options.dataloader_prefetch_factor, workers),
        "dataloader_pin_memory": on_gpu,
        "accelerator_config": {"non_blocking": on_gpu},
    }


def _describe_saving(
    options: TrainerConfig, evaluation: EvaluationConfig, metric: Metric, per_epoch: int
) -> dict[str, object]:
    """Return the arguments that say at which steps to evaluate and to save, and what is best."""
    evaluate_every = evaluation.steps if evaluation.strategy == EvaluateWhen.steps else per_epoch
    best = evaluation.metric_for_best_model
    if best and options.save_steps not in (None, evaluate_every):
        log.warning(
            "warning: trainer.save_steps=%d has no effect: with evaluation.metric_for_best_model, "
            "checkpoints follow evaluations, every %d steps here (evaluation.strategy=steps "
            "evaluation.steps=N).",
            options.save_steps,
            evaluate_every,
        )
    return {
        "eval_strategy": "no" if evaluation.strategy == EvaluateWhen.no else "steps",
        "eval_steps": evaluate_every,
        "save_strategy": "steps",
        # Only a step that was both evaluated and saved can be the best checkpoint.
        "save_steps": evaluate_every if best else options.save_steps or per_epoch,
        "load_best_model_at_end": best is not None,
        "metric_for_best_model": f"eval_{best}" if best else None,
        "greater_is_better": directions(metric)[best] if best else None,
    }


def _read_extra(options: TrainerConfig) -> dict[str, object]:
    unknown = set(map(str, options.extra)) - {field.name for field in fields(TrainingArguments)}
    if unknown:
        raise UserError(f"trainer.extra: transformers has no argument {', '.join(sorted(unknown))}.")
    return options.extra


def part_weights(dataset: Source | dict[str, Any], train: ExampleDataset) -> dict[str, tuple[int, float]]:
    """Return size and weight of each part of a mixture; empty if the data is not a mixture.

    Raises:
        UserError: a part has no example to train on.
    """
    if not isinstance(dataset, Mixture):
        return {}
    sizes = count_parts(train.rows)
    for name in dataset.parts:
        if name not in sizes:
            raise UserError(f"Part `{name}` of the mixture has no example to train on.")
    return {name: (size, dataset.parts[name].weight or size) for name, size in sizes.items()}
