"""Chooses how many layers are recomputed in the backward pass, by the memory of the device."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from accelerate import PartialState
from transformers import PaliGemmaConfig

from finetune.assembly.model import freeze_and_adapt, half_dtype
from finetune.assembly.trainer import divide_run_batch
from finetune.config.schema import RunConfig
from finetune.model.checkpointing import choose_checkpoint_every
from finetune.model.load import build_meta_model
from finetune.model.memory import StepShape, estimate_memory
from finetune.processes import count_processes

R = TypeVar("R", bound=RunConfig)

_SPARE = 2**30
"""Bytes for the CUDA context and the allocator's gaps; and a tenth of the memory, for what the estimate
misses."""


def settle_checkpointing(options: R, checkpoint: PaliGemmaConfig) -> R:
    """Return options with `activation_checkpointing` and `checkpoint_every` as they will be used.

    Args:
        options: of a run that trains; the model is not loaded yet.
        checkpoint: configuration of the checkpoint.
    """
    trainer, device = options.trainer, PartialState().device
    is_on, every = trainer.activation_checkpointing, trainer.speed.checkpoint_every
    if is_on is not False and every is None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        available = int(0.9 * (free + torch.cuda.memory_reserved(device))) - _SPARE
        layers = checkpoint.text_config.num_hidden_layers
        every = choose_checkpoint_every(layers, estimate_step(options, checkpoint), available)
        is_on = every is not None
    is_on = bool(is_on) or every is not None
    speed = replace(trainer.speed, checkpoint_every=every)
    return replace(options, trainer=replace(trainer, activation_checkpointing=is_on, speed=speed))


def estimate_step(options: RunConfig, checkpoint: PaliGemmaConfig) -> Callable[[int | None], int]:
    """Return the bytes of a step as a function of k: every k-th layer is recomputed; None: no layer is."""
    checkpoint = copy.deepcopy(checkpoint)
    model, half = options.model, half_dtype(options.trainer)
    base = build_meta_model(checkpoint, getattr(torch, model.dtype))
    learner = freeze_and_adapt(base, model, options.freeze, options.peft, half, None)
    shape = plan_shape(options, checkpoint)
    kept, recomputed = (
        estimate_memory(
            learner,
            checkpoint,
            options.peft,
            shape,
            optimizer=options.trainer.optim,
            half=half,
            checkpointing=checkpointing,
        ).total
        for checkpointing in (False, True)
    )
    layers = checkpoint.text_config.num_hidden_layers

    def bytes_of(every: int | None) -> int:
        return kept if every is None else kept - (kept - recomputed) * -(-layers // every) // layers

    return bytes_of


def plan_shape(options: RunConfig, checkpoint: PaliGemmaConfig) -> StepShape:
    """Return the largest forward pass of a training step, with one image an example."""
    size, _ = divide_run_batch(options.trainer, count_processes())
    vision, most = checkpoint.vision_config, options.collator.max_text_length
    return StepShape(
        examples=size,
        image_tokens=(vision.image_size // vision.patch_size) ** 2,
        text_tokens=most,
        supervised_tokens=min(options.evaluation.max_new_tokens or most, most),
    )
