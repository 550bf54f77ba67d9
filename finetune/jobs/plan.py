"""Show what learns, the data and the number of steps, without reading any weights.

Builds the architecture without memory, freezes and adapts it as the run would, and prints the table. Then
the rows are read and checked as before a training. The configurations of Google's published checkpoints are
included, so that they need no network.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from finetune.assembly.checkpointing import plan_shape
from finetune.assembly.data import build_data, warn_of_shared_examples
from finetune.assembly.describe import describe_run
from finetune.assembly.lengths import settle_longest_answer
from finetune.assembly.model import freeze_and_adapt, half_dtype, read_continued
from finetune.assembly.trainer import build_run_metric, divide_run_batch
from finetune.config.jobs import Plan
from finetune.config.schema import RunConfig
from finetune.data.batches.order import count_steps
from finetune.model.load import build_meta_model, load_config, load_processor
from finetune.model.memory import estimate_memory, format_memory
from finetune.model.published import published_config
from finetune.model.table import count_parameters, format_table
from finetune.processes import count_processes, join_processes
from finetune.result import PlanResult
from finetune.run.folder import Launch

log = logging.getLogger(__name__)


def run(options: Plan, launch: Launch) -> PlanResult:
    """Return the plan of a run; each line is logged as soon as it is known.

    Raises:
        UserError: the checkpoint is unknown, the settings do not fit it, or the data cannot be used.
    """
    join_processes()
    plan = plan_data(options, plan_model(options), launch.folder)
    log.info("%s", plan.description)
    log.info(
        f"{plan.train_examples:,} train and {plan.validation_examples:,} validation examples, batch "
        f"{plan.batch}: {plan.steps:,} steps, {plan.epochs:.2f} epochs"
    )
    return plan


def plan_model(options: RunConfig) -> PlanResult:
    """Return what learns and the memory of a step; the data are not read."""
    model = options.model
    checkpoint = published_config(model.path)
    if checkpoint is None:
        checkpoint = load_config(model.path, model.revision, model.resolution)
    base, half = build_meta_model(checkpoint, getattr(torch, model.dtype)), half_dtype(options.trainer)
    adapter = read_continued(options, checkpoint, is_loaded=True)
    learner = freeze_and_adapt(base, model, options.freeze, options.peft, half, adapter)
    counts, shape = count_parameters(learner, planned=options.peft), plan_shape(options, checkpoint)
    memory = estimate_memory(
        learner,
        checkpoint,
        options.peft,
        shape,
        optimizer=options.trainer.optim,
        half=half,
        checkpointing=bool(options.trainer.activation_checkpointing),
    )
    table = format_table(counts)
    log.info("%s, %d pixels", model.path, checkpoint.vision_config.image_size)
    log.info("%s", table)
    log.info("%s", format_memory(memory, shape))
    return PlanResult(
        table,
        learning=sum(count.learning for count in counts.values()),
        parameters=sum(count.parameters + count.adapter for count in counts.values()),
        memory=memory,
    )


def plan_data(options: Plan, plan: PlanResult, folder: Path) -> PlanResult:
    """Read and check the rows; add examples, batch and steps to a plan."""
    path, revision = options.model.path, options.model.revision
    note = ""
    if published_config(path) and not try_to_load_from_cache(path, "tokenizer.json", revision=revision):
        note = f"\ntext lengths are not checked: the tokenizer of {path} is not on this machine"
        path, revision, options.collator.max_text_length = "tiny", None, sys.maxsize
    metric = build_run_metric(options)
    data = build_data(options, load_processor(path, revision), metric, codec=False)
    assert data.train is not None
    settle_longest_answer(options.evaluation, data.answers, len(data.validation))
    warn_of_shared_examples(data)
    trainer, processes, examples = options.trainer, count_processes(), len(data.train)
    size, accumulation = divide_run_batch(trainer, processes)
    batch = size * accumulation * processes
    return replace(
        plan,
        description=describe_run(options, folder, data.train, data.validation, data.test) + note,
        train_examples=examples,
        validation_examples=len(data.validation),
        batch=batch,
        steps=count_steps(examples, batch, trainer.num_train_epochs, trainer.max_steps),
    )
