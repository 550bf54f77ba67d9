"""What learns, on which rows, and how many steps there will be, without reading any weights.

Builds the architecture without memory, freezes and adapts it as the run would, and prints the table. Then
the rows are read and checked as before a training. Google's published checkpoints are known to it, so that
it needs no network for them.
"""

import os
import sys

import torch
from accelerate import PartialState
from huggingface_hub import try_to_load_from_cache

from finetune.assembly.custom import instantiate
from finetune.assembly.data import build_collators, build_data
from finetune.assembly.describe import describe_run
from finetune.assembly.model import freeze_and_adapt, half_dtype
from finetune.assembly.trainer import divide_run_batch
from finetune.config.jobs import Plan
from finetune.data.batches.order import count_steps
from finetune.errors import printable
from finetune.metrics.metric import Metric
from finetune.model.load import build_meta_model, load_config, load_processor
from finetune.model.published import published_config
from finetune.model.table import count_parameters, format_table
from finetune.run.folder import Launch
from finetune.run.log import set_up_logging


def run(config: Plan, launch: Launch) -> None:
    """Print the plan of a run.

    Raises:
        UserError: the checkpoint is unknown, the settings do not fit it, or the data cannot be used.
    """
    PartialState(cpu=not torch.cuda.is_available())
    set_up_logging()
    model = config.model
    checkpoint = published_config(model.path)
    if checkpoint is None:
        checkpoint = load_config(model.path, model.revision, model.resolution)
    base = build_meta_model(checkpoint, getattr(torch, model.dtype))
    half = half_dtype(config.trainer)
    learner = freeze_and_adapt(base, model, config.freeze, config.peft, half, config.adapter)
    print(printable(f"{model.path}, {checkpoint.vision_config.image_size} pixels"))
    print(format_table(count_parameters(learner, planned=config.peft)), flush=True)
    print(printable(_describe_data(config)))


def _describe_data(config: Plan) -> str:
    """Read and check the rows; count examples, batch and steps."""
    path, revision = config.model.path, config.model.revision
    note = ""
    if published_config(path) and not try_to_load_from_cache(path, "tokenizer.json", revision=revision):
        note = f"\ntext lengths are not checked: the tokenizer of {path} is not on this machine"
        path, revision, config.collator.max_text_length = "tiny", None, sys.maxsize
    collators = build_collators(config, load_processor(path, revision))
    metric: Metric = instantiate(config.metric, "metric")
    data = build_data(config, collators, metric, codec=False)
    assert data.train is not None

    trainer = config.trainer
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    size, accumulation = divide_run_batch(trainer, processes)
    batch, examples = size * accumulation * processes, len(data.train)
    steps = count_steps(examples, batch, trainer.num_train_epochs, trainer.max_steps)
    return (
        f"{describe_run(config, None, data.train, data.validation)}{note}\n"
        f"{examples:,} train and {len(data.validation):,} validation examples, batch {batch}: "
        f"{steps:,} steps, {steps * batch / examples:.2f} epochs"
    )
