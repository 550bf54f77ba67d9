"""In which format what learns is stored: float32, unless bfloat16 is asked for by name.

An optimizer step moves a weight by about the learning rate. bfloat16 has eight significant bits: a move
smaller than 1/256 of the weight is rounded away, so that at 1e-5 hardly any matrix weight would move.
"""

import logging

import torch
from peft import PeftModel
from torch import nn
from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError
from finetune.model.freeze import count_layers
from finetune.model.options import FreezePolicy

log = logging.getLogger(__name__)

_SHOWN = 5


def store_by_policy(
    model: PaliGemmaForConditionalGeneration,
    policy: FreezePolicy,
    learning: torch.dtype,
    frozen: torch.dtype,
) -> None:
    """Store the weights of a model that learns in full: what learns in one format, the rest in another.

    The weights have to be loaded in the wider format: those that learn start unrounded, and those of a
    finished run come back as they were last evaluated.

    Args:
        model: a PaliGemma without an adapter.
        policy: says which parameters learn.
        learning: format of those.
        frozen: format of the others.
    """
    layers = count_layers(model)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(learning if policy.learns(name, layers) else frozen)


def store_what_learns(model: nn.Module, dtype: torch.dtype, autocast: torch.dtype | None) -> None:
    """Store every parameter that learns in one format, and read it back.

    Args:
        model: its `requires_grad` set; with an adapter or without.
        dtype: float32 or bfloat16.
        autocast: format of the products; null where the trainer computes in the weights' own.

    Raises:
        UserError: the formats cannot be computed with together.
        RuntimeError: a parameter is of another format afterwards, or the embedding is no longer tied.
    """
    if dtype != torch.float32:
        log.warning(
            "warning: what learns is stored in %s: an update smaller than 1/256 of a weight vanishes. "
            "model.learning_dtype=float32 keeps it.",
            str(dtype).removeprefix("torch."),
        )
        if autocast == torch.float16:
            raise UserError(
                "model.learning_dtype=bfloat16 cannot learn under trainer.fp16=true, whose gradients are "
                "scaled: leave model.learning_dtype=float32, or choose trainer.bf16=true."
            )
    for parameter in model.parameters():
        if parameter.requires_grad:
            # The parameter itself stays, so that tied weights stay one.
            parameter.data = parameter.data.to(dtype)
    assert_learning(model, dtype)
    if autocast is None:
        check_one_format(model)


def assert_learning(model: nn.Module, dtype: torch.dtype) -> None:
    """Check that everything that learns has the format, and that the embedding is still tied.

    Raises:
        RuntimeError: lists the parameters that differ.
    """
    wrong = [
        f"{name} ({parameter.dtype})"
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.dtype != dtype
    ]
    if wrong:
        raise RuntimeError(f"{len(wrong)} learning parameters are not {dtype}: {', '.join(wrong[:_SHOWN])}")
    base: PaliGemmaForConditionalGeneration = (
        model.get_base_model() if isinstance(model, PeftModel) else model
    )
    if base.config.tie_word_embeddings:
        embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
        if embedding.weight is not head.weight:
            raise RuntimeError("the embedding and lm_head are no longer one tensor")


def check_one_format(model: nn.Module) -> None:
    """Raise where two formats would meet without autocast; LoRA layers convert their own inputs.

    Raises:
        UserError: names the formats and the way out.
    """
    formats = sorted(
        {
            str(parameter.dtype).removeprefix("torch.")
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point() and ".lora_" not in name
        }
    )
    if len(formats) > 1:
        raise UserError(
            f"trainer.bf16=false and trainer.fp16=false compute without autocast, which cannot mix weights "
            f"in {' and '.join(formats)}: choose model.dtype=float32, or trainer.bf16=true."
        )
