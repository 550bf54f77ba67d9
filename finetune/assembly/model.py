"""From options to a model that is ready to learn, in a fixed order."""

import logging
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, set_seed

from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.model.adapter import continue_adapter
from finetune.model.freeze import apply_freeze
from finetune.model.learning import store_by_policy, store_what_learns
from finetune.model.load import load_model
from finetune.model.lora import Quantization, add_adapter
from finetune.model.options import FreezePolicy, ModelConfig, PeftConfig, PeftMethod
from finetune.model.surgery import operate
from finetune.model.table import count_parameters, format_table
from finetune.training.options import TrainerConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """A model that is ready to learn."""

    model: nn.Module
    """Loaded, frozen and adapted, operated on; the trainer moves it to its device."""
    processor: PaliGemmaProcessor
    """The checkpoint's."""
    table: str
    """What of it learns, is adapted and is quantised, for the log."""


def build_learner(config: RunConfig, checkpoint: PaliGemmaConfig, processor: PaliGemmaProcessor) -> Learner:
    """Load the base, freeze and adapt it, and change how it runs, in this order.

    Args:
        config: the run's seed, adapter, and options of the model, of what learns and of the training.
        checkpoint: configuration of the checkpoint; changed in place.
        processor: the checkpoint's.

    Raises:
        UserError: see `load_model` and `freeze_and_adapt`.
    """
    set_seed(config.seed)
    options, freeze, peft, half = config.model, config.freeze, config.peft, half_dtype(config.trainer)
    base = load_base(checkpoint, options, freeze, peft, half)
    model = freeze_and_adapt(base, options, freeze, peft, half, config.adapter)
    operate(model, options.llm_dropout, config.trainer.activation_checkpointing)
    return Learner(model, processor, format_table(count_parameters(model)))


def load_base(
    checkpoint: PaliGemmaConfig,
    options: ModelConfig,
    freeze: FreezePolicy,
    peft: PeftConfig,
    half: torch.dtype | None,
    *,
    learnt: bool = True,
) -> PaliGemmaForConditionalGeneration:
    """Load the base model, quantised where `peft.bits` says so.

    Args:
        checkpoint: its configuration; changed in place.
        options: name it.
        freeze: what may learn.
        peft: how it learns.
        half: see `half_dtype`.
        learnt: without an adapter, store what `freeze` lets learn in `model.learning_dtype`, because it is
            going to learn, or has learnt. Otherwise the whole model is in `model.dtype`.
    """
    frozen, learning = getattr(torch, options.dtype), getattr(torch, options.learning_dtype)
    in_full = learnt and peft.method == PeftMethod.none
    model = load_model(
        options.path,
        checkpoint,
        revision=options.revision,
        # The wider format of both: the learning weights are never rounded to the frozen ones'.
        dtype=torch.promote_types(frozen, learning) if in_full else frozen,
        attention=options.attention,
        final_logit_softcap=options.final_logit_softcap,
        quantization=None if peft.bits == 16 else Quantization(peft, half or torch.bfloat16),
        device=PartialState().device,
    )
    if in_full:
        store_by_policy(model, freeze, learning, frozen)
    return model


def freeze_and_adapt(
    base: PaliGemmaForConditionalGeneration,
    options: ModelConfig,
    freeze: FreezePolicy,
    peft: PeftConfig,
    half: torch.dtype | None,
    adapter: str | None,
) -> nn.Module:
    """Freeze the base, add a new adapter or one to continue, and convert what learns to its format.

    Args:
        base: changed in place.
        options: the format of what learns.
        freeze: what may learn.
        peft: how it learns.
        half: see `half_dtype`.
        adapter: a trained adapter to continue.

    Raises:
        UserError: the settings do not fit the model, or the adapter does not fit the settings.
    """
    model: nn.Module = base
    if peft.method == PeftMethod.none:
        if adapter is not None:
            raise UserError(
                f"adapter={adapter} with peft=none: the weights themselves would learn, without the "
                "adapter. Choose the peft= that it was trained with, or leave adapter= out."
            )
        apply_freeze(base, freeze)
    else:
        model = add_adapter(base, freeze, peft)
        if adapter is not None:
            continue_adapter(model, adapter, peft.bits)
            log.info("the adapter goes on from %s", adapter)
    store_what_learns(model, getattr(torch, options.learning_dtype), half)
    return model


def half_dtype(trainer: TrainerConfig) -> torch.dtype | None:
    """Return the format of the products under autocast; None if the trainer uses none."""
    if trainer.fp16:
        return torch.float16
    return torch.bfloat16 if trainer.bf16 else None


def half_precision(trainer: TrainerConfig) -> torch.autocast:
    """Return the context in which the model computes: bfloat16 or float16, as the trainer says."""
    half = half_dtype(trainer)
    return torch.autocast(PartialState().device.type, half or torch.bfloat16, enabled=half is not None)
