"""Options of the training.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from finetune.option import BELOW_ONE, COUNT, RATE, Range, option
from finetune.speed import SpeedOptions


class LossAverage(StrEnum):
    """What has equal weight in the loss."""

    example = "example"
    token = "token"


@dataclass
class LossConfig:
    """The loss over suffix and EOS."""

    average: LossAverage = LossAverage.example
    """`example`: mean over an example's tokens, then over examples (the paper).
    `token`: mean over all tokens."""
    label_smoothing: float = option(0.0, BELOW_ONE)
    """As in the paper: the target keeps 1 - e, every other entry of the vocabulary gets e / (V - 1)."""


@dataclass
class TowerOptimizer:
    """Exceptions for one tower."""

    learning_rate: float | None = option(None, RATE)
    """`null`: `trainer.learning_rate`."""
    weight_decay: float | None = None
    """`null`: `trainer.weight_decay`."""


@dataclass
class TowerOptimizers:
    """Exceptions by tower."""

    vision_tower: TowerOptimizer = field(default_factory=TowerOptimizer)
    multi_modal_projector: TowerOptimizer = field(default_factory=TowerOptimizer)
    language_model: TowerOptimizer = field(default_factory=TowerOptimizer)


@dataclass
class TrainerConfig:
    """Fields of transformers.TrainingArguments under their own names, and what it has no field for."""

    num_train_epochs: float = option(3.0, Range(0, 1e6, above_least=True))
    """Passes over the training split; the number of steps is round(epochs * examples / batch)."""
    max_steps: int = option(-1, Range(-1))
    """Optimizer steps; overrides the epochs if positive."""
    global_batch_size: int | None = option(None, COUNT)
    """Examples of one optimizer step over all devices, however many there are. `null`: the product of the
    next two and the number of devices."""
    per_device_train_batch_size: int = option(8, COUNT)
    """Examples in one forward pass on one device, at most."""
    gradient_accumulation_steps: int = option(1, COUNT)
    """Forward passes in one optimizer step; derived from `global_batch_size` if that is given."""
    limit: int | None = option(None, COUNT)
    """Train on the first n rows only; with a mixture, the first n of each part."""
    learning_rate: float = option(1e-5, RATE)
    """Peak learning rate."""
    lr_scheduler_type: str = "cosine"
    """After the warm-up: cosine, linear, constant_with_warmup or any other name of transformers."""
    warmup_steps: float = 0.05
    """Linear warm-up: a share of all steps below 1, a number of steps from 1 on."""
    optim: str = "adamw_torch"
    """adamw_torch, adamw_torch_fused, paged_adamw_8bit, sgd, or any other name of transformers."""
    weight_decay: float = 0.0
    """AdamW's, on matrices of base weights and adapters; never on norms, biases and SigLIP's positions.
    big_vision's value is this one times the learning rate."""
    adam_beta1: float = option(0.9, BELOW_ONE)
    """Decay of the mean of the gradients."""
    adam_beta2: float = option(0.999, BELOW_ONE)
    """Decay of the mean of their squares."""
    adam_epsilon: float = option(1e-8, Range(0, 1, above_least=True))
    """Added to the denominator."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 switches it off."""
    bf16: bool = True
    """Compute in bfloat16 under autocast."""
    fp16: bool = False
    """Compute in float16 under autocast, for GPUs without bfloat16."""
    activation_checkpointing: bool | None = None
    """Recompute activations in the backward pass, of as many layers as `speed.checkpoint_every` says: less
    memory, at most a third more time. `null`: on a GPU, where its memory needs it."""
    logging_steps: int = option(10, COUNT)
    """Steps between two log lines."""
    save_steps: int | None = option(None, COUNT)
    """Steps between two checkpoints. `null`: one at the end of each epoch. With
    `evaluation.metric_for_best_model`, there is one after each evaluation instead."""
    save_total_limit: int | None = option(2, COUNT)
    """Number of checkpoints to keep, in addition to the best one."""
    dataloader_num_workers: int | None = option(None, Range(0, 1024))
    """Processes that decode images and make batches; 0: the training process does. `null`: chosen by the
    cores, the processes on this machine and the number of images; the log says which."""
    dataloader_prefetch_factor: int | None = option(None, Range(1, 1e6))
    """Batches that each worker prepares in advance. `null`: 2, or more of few workers."""
    loss: LossConfig = field(default_factory=LossConfig)
    towers: TowerOptimizers = field(default_factory=TowerOptimizers)
    speed: SpeedOptions = field(default_factory=SpeedOptions)
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other field of transformers.TrainingArguments, such as `+trainer.extra.torch_compile=true`."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that contradict each other."""
        if self.bf16 and self.fp16:
            yield f"{prefix}bf16 and {prefix}fp16 are both true: choose one."
        if self.global_batch_size is not None and self.gradient_accumulation_steps != 1:
            yield (
                f"{prefix}gradient_accumulation_steps follows from {prefix}global_batch_size: give one of "
                "them, the other as 1 or null."
            )
        if self.dataloader_prefetch_factor is not None and self.dataloader_num_workers == 0:
            yield f"{prefix}dataloader_prefetch_factor needs workers: {prefix}dataloader_num_workers=4."
        if self.warmup_steps >= 1 and self.warmup_steps % 1 > 0:
            yield (
                f"{prefix}warmup_steps={self.warmup_steps}: expected a share of all steps below 1, or a "
                "whole number of steps."
            )
        if self.activation_checkpointing is False and self.speed.checkpoint_every is not None:
            yield (
                f"{prefix}speed.checkpoint_every={self.speed.checkpoint_every} recomputes activations, "
                f"{prefix}activation_checkpointing=false does not: give one of them."
            )
        if self.speed.group_steps > 1 and not self.speed.group_lengths:
            yield (
                f"{prefix}speed.group_steps={self.speed.group_steps} sorts by length: it needs "
                f"{prefix}speed.group_lengths=true."
            )
        if self.max_steps == 0:
            yield f"{prefix}max_steps=0: expected 1 or more, or -1 for {prefix}num_train_epochs."
