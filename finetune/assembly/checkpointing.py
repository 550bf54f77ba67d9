"""Chooses how many layers are recomputed in the backward pass, by the memory of the device."""

from dataclasses import replace
from typing import TypeVar

import torch
from accelerate import PartialState

from finetune.assembly.estimate import RunEstimate
from finetune.config.schema import RunConfig
from finetune.model.checkpointing import choose_checkpoint_every

R = TypeVar("R", bound=RunConfig)

_SPARE = 2**30
"""Bytes for the CUDA context and the allocator's gaps; and a tenth of the memory, for what the estimate
misses."""


def settle_checkpointing(options: R, estimate: RunEstimate) -> R:
    """Return options with `activation_checkpointing` and `checkpoint_every` as they will be used.

    Args:
        options: of a run that trains; the model is not loaded yet.
        estimate: of the run.
    """
    trainer, device = options.trainer, PartialState().device
    is_on, every = trainer.activation_checkpointing, trainer.speed.checkpoint_every
    if is_on is not False and every is None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        available = int(0.9 * (free + torch.cuda.memory_reserved(device))) - _SPARE
        layers = estimate.checkpoint.text_config.num_hidden_layers
        every = choose_checkpoint_every(layers, lambda k: estimate.memory(every=k).allocated, available)
        is_on = every is not None
    is_on = bool(is_on) or every is not None
    speed = replace(trainer.speed, checkpoint_every=every)
    return replace(options, trainer=replace(trainer, activation_checkpointing=is_on, speed=speed))
