"""What learns and how many steps there will be, without reading any weights.

Builds the architecture without memory, freezes and adapts it as the run would, and prints the table.
Google's published checkpoints are known to it, so that it needs no network for them.
"""

import os

import torch

from finetune.config.schema import RunConfig
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.jobs.arguments import divide_run_batch
from finetune.jobs.parts import limit_train, load_splits, prepare_model, quantization, set_up_logging
from finetune.model.load import build_meta_model, load_config
from finetune.model.published import published_config
from finetune.model.table import count_parameters, format_table
from finetune.run.folder import Launch
from finetune.training.order import count_steps


def run(config: RunConfig, launch: Launch) -> None:
    """Print the plan of a run.

    Raises:
        UserError: the checkpoint is unknown, or the settings do not fit it.
    """
    set_up_logging()
    model = config.model
    checkpoint = published_config(model.path)
    if checkpoint is None:
        checkpoint = load_config(model.path, model.revision, model.resolution)
    base = build_meta_model(checkpoint, getattr(torch, model.dtype))
    learner = prepare_model(config, base)
    print(f"{model.path}, {checkpoint.vision_config.image_size} pixels")
    print(format_table(count_parameters(learner, planned=quantization(config))))
    print(_describe_steps(config))


def _describe_steps(config: RunConfig) -> str:
    """Count examples, batch and steps; the data may be out of reach."""
    trainer = config.trainer
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    size, accumulation = divide_run_batch(config, processes)
    batch = size * accumulation * processes
    try:
        splits: Splits = load_splits(config)
    except UserError as error:
        return f"batch {batch}; steps unknown, for the data cannot be read: {error}"
    examples = len(limit_train(config, splits))
    steps = count_steps(examples, batch, trainer.num_train_epochs, trainer.max_steps)
    return (
        f"{examples:,} train and {len(splits.validation):,} validation examples, batch {batch}: "
        f"{steps:,} steps, {steps * batch / examples:.2f} epochs"
    )
