"""Dropout in Gemma as big_vision has it; transformers drops attention probabilities only."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def drop_residual_branches(model: nn.Module, share: float) -> None:
    """Drop activations of each layer's attention and MLP before they join the residual stream.

    Every number is dropped on its own, in training mode alone, and the others are scaled up so that the
    mean stays. With Gemma 2 the attention's are dropped behind its norm, the MLP's before it.

    Args:
        model: a PaliGemma, with an adapter or without.
        share: probability that a number is dropped, 0 or more and less than 1; 0 adds nothing.

    Source: google-research/big_vision, models/ppp/gemma.py (`Block`).
    """
    if share == 0:
        return
    gemma: PreTrainedModel = next(
        module for name, module in model.named_modules() if name.endswith("language_model")
    )
    for layer in gemma.layers:
        # Gemma 1 calls the norm before its MLP `post_attention_layernorm` too.
        has_norms_behind = hasattr(layer, "post_feedforward_layernorm")
        attention = layer.post_attention_layernorm if has_norms_behind else layer.self_attn
        for branch in (attention, layer.mlp):
            branch.register_forward_hook(partial(_drop, share))


def _drop(share: float, branch: nn.Module, inputs: Any, output: Any) -> Any:
    """Change a branch's output; attention returns its weights beside it."""
    if isinstance(output, tuple):
        return (_drop(share, branch, inputs, output[0]), *output[1:])
    dropped: Tensor = torch.nn.functional.dropout(output, share, training=branch.training)
    return dropped
