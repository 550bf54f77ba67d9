"""From the configuration to the model and what scores it; `examples.py` has the data."""

import logging
from dataclasses import asdict

import torch
from accelerate import PartialState
from torch import nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from finetune.config.schema import PeftMethod, RunConfig
from finetune.errors import UserError
from finetune.model.adapter import continue_adapter
from finetune.model.freeze import FreezePolicy, apply_freeze
from finetune.model.learning import store_by_policy, store_what_learns
from finetune.model.load import load_model
from finetune.model.lora import AdapterSettings, Quantization, add_adapter

log = logging.getLogger(__name__)


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


def load_base(
    config: RunConfig, checkpoint: PaliGemmaConfig, learnt: bool = True
) -> PaliGemmaForConditionalGeneration:
    """Load the base model, quantised where `peft.bits` says so.

    Args:
        config: names it.
        checkpoint: its configuration; changed in place.
        learnt: without an adapter, store what `freeze` lets learn in `model.learning_dtype`: where it is
            about to learn, and where it has learnt. Otherwise all of it is in `model.dtype`.
    """
    frozen, learning = getattr(torch, config.model.dtype), getattr(torch, config.model.learning_dtype)
    in_full = learnt and config.peft.method == PeftMethod.none
    model = load_model(
        config.model.path,
        checkpoint,
        revision=config.model.revision,
        dtype=torch.promote_types(frozen, learning) if in_full else frozen,
        attention=config.model.attention,
        final_logit_softcap=config.model.final_logit_softcap,
        quantization=quantization(config),
        device=PartialState().device,
    )
    if in_full:
        store_by_policy(model, freeze_policy(config), learning, frozen)
    return model


def prepare_model(config: RunConfig, model: PaliGemmaForConditionalGeneration) -> nn.Module:
    """Freeze what is frozen, add what is adapted, or go on with an adapter, and store what learns in full.

    Raises:
        UserError: the settings do not fit the model, or the adapter does not fit the settings.
    """
    policy, learner = freeze_policy(config), model
    if config.peft.method == PeftMethod.none:
        if config.adapter is not None:
            raise UserError(
                f"adapter={config.adapter} with peft=none: the weights themselves would learn, without the "
                "adapter. Choose the peft= that it was trained with, or leave adapter= out."
            )
        apply_freeze(model, policy)
    else:
        learner = add_adapter(model, policy, adapter_settings(config))
        if config.adapter is not None:
            continue_adapter(learner, config.adapter, config.peft.bits)
            log.info("the adapter goes on from %s", config.adapter)
    store_what_learns(learner, getattr(torch, config.model.learning_dtype), half_dtype(config))
    return learner


def half_dtype(config: RunConfig) -> torch.dtype | None:
    """Return the format of the products under autocast; null where the trainer uses none."""
    if config.trainer.fp16:
        return torch.float16
    return torch.bfloat16 if config.trainer.bf16 else None


def half_precision(config: RunConfig) -> torch.autocast:
    """Return the context in which the model computes: bfloat16 or float16, as the trainer says."""
    half = half_dtype(config)
    return torch.autocast(PartialState().device.type, half or torch.bfloat16, enabled=half is not None)
