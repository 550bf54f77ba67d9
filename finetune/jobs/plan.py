"""Show what learns, the data, and what the training costs, without reading any weights.

Builds the architecture without memory, freezes and adapts it as the run would, and prints the table. Then
the rows are read and checked as before a training, and memory, operations, steps and time are computed from
their lengths. The configurations of Google's published checkpoints are included, so that they need no
network.
"""

import logging
import sys
from dataclasses import replace

from accelerate import PartialState
from huggingface_hub import try_to_load_from_cache

from finetune.assembly.checkpointing import settle_checkpointing
from finetune.assembly.data import Data, build_data, warn_of_shared_examples
from finetune.assembly.describe import describe_run
from finetune.assembly.estimate import RunEstimate, estimate_here
from finetune.assembly.fit import describe_fit
from finetune.assembly.lengths import settle_longest_answer
from finetune.assembly.model import read_continued
from finetune.assembly.room import count_images
from finetune.assembly.trainer import build_run_metric, divide_run_batch
from finetune.config.jobs import Plan
from finetune.data.batches.order import count_steps
from finetune.errors import UserError
from finetune.model.load import load_config, load_processor
from finetune.model.memory import format_memory
from finetune.model.peak import Peak, find_peak
from finetune.model.published import published_config
from finetune.model.table import format_table
from finetune.processes import count_processes, join_processes
from finetune.result import PlanResult
from finetune.run.folder import Launch

log = logging.getLogger(__name__)

_OF_FEATURES = 2
"""Bytes of a number in the cache of image features: bfloat16."""


def run(options: Plan, launch: Launch) -> PlanResult:
    """Return the plan of a run; each line is logged as soon as it is known.

    Raises:
        UserError: the checkpoint is unknown, the settings do not fit it, or the data cannot be used.
    """
    join_processes()
    estimate = estimate_run(options)
    log.info("%s, %d pixels", options.model.path, estimate.checkpoint.vision_config.image_size)
    log.info("%s", format_table(estimate.counts))
    try:
        data, note = read_data(options)
    except UserError:
        log.info("with the longest texts that the options allow, %s", describe_memory(estimate))
        raise
    assert data.train is not None
    assert data.row_lengths is not None
    description = describe_run(options, launch.folder, data.train, data.validation, data.test) + note
    log.info("%s", description)
    estimate = estimate.with_lengths(data.row_lengths)
    here = estimate.with_checkpointing(settle_checkpointing(options, estimate))
    plan = compute_plan(options, here, data)
    if options.fit_bytes is not None:
        card = f"a GPU of {options.fit}"
        plan = replace(plan, fit=describe_fit(estimate.for_gpu(), options.fit_bytes, card, launch.command))
    plan = replace(plan, description=description)
    log.info(
        f"{plan.train_examples:,} train and {plan.validation_examples:,} validation examples, batch "
        f"{plan.batch}: {plan.steps:,} steps, {plan.epochs:.2f} epochs"
    )
    log.info("%s", describe_memory(here))
    log.info("%s", describe_work(plan))
    if plan.fit is not None:
        log.info("the training %s", plan.fit)
    return plan


def estimate_run(options: Plan) -> RunEstimate:
    """Return the estimate of a run on this machine, with the longest texts that its options allow.

    Raises:
        UserError: the checkpoint is unknown, or the settings do not fit it.
    """
    model = options.model
    # Published ones need no network.
    checkpoint = published_config(model.path) or load_config(model.path, model.revision, model.resolution)
    adapter = read_continued(options, checkpoint, is_loaded=True)
    return estimate_here(options, checkpoint, adapter=adapter)


def read_data(options: Plan) -> tuple[Data, str]:
    """Read and check the rows.

    Returns:
        The data, and a line to add where they were not read with the checkpoint's tokenizer.

    Raises:
        UserError: the data cannot be used.
    """
    path, revision, most = options.model.path, options.model.revision, options.collator.max_text_length
    note = ""
    if published_config(path) and not try_to_load_from_cache(path, "tokenizer.json", revision=revision):
        note = (
            f"\ntext lengths are not checked: the tokenizer of {path} is not on this machine; they are "
            "counted with that of the tiny model, which needs more tokens"
        )
        path, revision, options.collator.max_text_length = "tiny", None, sys.maxsize
    metric = build_run_metric(options)
    data = build_data(options, load_processor(path, revision), metric, codec=False)
    options.collator.max_text_length = most
    settle_longest_answer(options.evaluation, data.answers, len(data.validation))
    warn_of_shared_examples(data)
    return data if not note else replace(
        data, row_lengths=data.row_lengths and data.row_lengths.cut(most)
    ), note


def compute_plan(options: Plan, estimate: RunEstimate, data: Data) -> PlanResult:
    """Compute steps, memory, operations, time and the size of the cache of image features.

    Args:
        options: of the run.
        estimate: with the lengths of the data.
        data: the examples.
    """
    trainer, processes, examples = options.trainer, count_processes(), len(data.train or ())
    size, accumulation = divide_run_batch(trainer, processes)
    batch = size * accumulation * processes
    steps = count_steps(examples, batch, trainer.num_train_epochs, trainer.max_steps)
    useful, executed = estimate.operations()
    peak = find_peak(PartialState().device)
    if options.peak_tflops is not None:
        peak = Peak(options.peak_tflops, "peak_tflops=")
    counts, vision = estimate.counts.values(), estimate.checkpoint.vision_config
    images = sum(map(count_images, data.splits))
    return PlanResult(
        format_table(estimate.counts),
        learning=sum(count.learning for count in counts),
        parameters=sum(count.parameters + count.adapter for count in counts),
        memory=estimate.memory(every=estimate.checkpoint_every),
        train_examples=examples,
        validation_examples=len(data.validation),
        batch=batch,
        steps=steps,
        useful_flops=useful,
        executed_flops=executed,
        peak_tflops=peak.tflops,
        peak_source=peak.source,
        seconds=steps * batch / processes * executed / (peak.tflops * 1e12),
        feature_cache=images * estimate.image_tokens * int(vision.hidden_size) * _OF_FEATURES,
    )


def describe_memory(estimate: RunEstimate) -> str:
    """Return a line about the memory of a step."""
    every = estimate.checkpoint_every
    line = format_memory(estimate.memory(every=every), estimate.shape(), estimate.device)
    if every is None:
        return line
    return f"{line}; {'every layer' if every == 1 else f'one layer of {every}'} is recomputed"


def describe_work(plan: PlanResult) -> str:
    """Return the lines about operations, time and the size of the cache of image features."""
    unit, size = ("T", 1e12) if plan.useful_flops >= 1e11 else ("G", 1e9)
    peak = f"{plan.peak_tflops:,.4g} TFLOP/s ({plan.peak_source})"
    return (
        f"operations of an example: {plan.useful_flops / size:,.3f} {unit}FLOP useful, "
        f"{plan.executed_flops / size:,.3f} executed\n"
        f"all steps at {peak}: {format_seconds(plan.seconds)}; in practice, two to three times that\n"
        f"disk for the features of all images: {plan.feature_cache / 2**30:,.2f} GiB"
    )


def format_seconds(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:,.1f} hours"
