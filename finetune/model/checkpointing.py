"""Activation checkpointing of as many layers as the memory needs.

A layer that is checkpointed keeps its input alone and runs again in the backward pass, with the same
result. That saves nearly all of its memory and costs a further forward pass of it.
"""

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune.model.last_layer import computes_supervised_rows
from finetune.model.towers import find_tower
from finetune.speed import Technique

_COST = 0.35
"""Time of a further forward pass of all layers, as a share of a step: a third of full training; more where
frozen weights need no gradient, less for the parts outside the layers."""


def enable_activation_checkpointing(model: nn.Module, every: int = 1) -> None:
    """Recompute the activations of those towers through which a gradient flows.

    Non-reentrant, so that frozen embeddings need no gradient of their own.

    Args:
        model: a PaliGemma, with an adapter or without; changed in place.
        every: of each tower, layers 0, `every`, 2 `every` and so on are recomputed. The last decoder layer
            is not where it is computed at supervised positions only, for it saves little then.
    """
    # Tower by tower: transformers' counter would run through SigLIP's layers before Gemma's.
    for tower in _list_towers(model):
        tower.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
        # transformers makes the embeddings require a gradient, for the reentrant variant. Layers before the
        # first that learns would be recomputed and back-propagated for nothing.
        tower.disable_input_require_grads()


def choose_checkpoint_every(
    layers: int, bytes_of: Callable[[int | None], int], available: int
) -> int | None:
    """Return the largest k with which every k-th layer has to be recomputed.

    Args:
        layers: of the language model.
        bytes_of: the memory of a step for a k; None: nothing is recomputed.
        available: bytes that a step may use.

    Returns:
        1 if no k is enough; None if nothing has to be recomputed.
    """
    if bytes_of(None) <= available:
        return None
    # Larger ones recompute as many layers as a smaller one does: 12 and 17 of 18 layers recompute two.
    useful = [k for k in range(layers, 1, -1) if k == 2 or -(-layers // (k - 1)) > -(-layers // k)]
    return next((k for k in useful if bytes_of(k) <= available), 1)


def describe_checkpointing(model: nn.Module) -> Technique:
    """Return which layers are recomputed."""
    layers = [module for tower in _list_towers(model) for module in _list_layers(tower)]
    recomputed = [layer for layer in layers if layer.gradient_checkpointing]
    if not recomputed:
        return Technique(
            "checkpoint_every", False, "no layer is recomputed: the activations of all are kept"
        )
    kept = [layer for layer in recomputed if not computes_supervised_rows(layer)]
    what = f"{len(kept)} of {len(layers)} layers are recomputed in the backward pass"
    detail = f"{what}: about {_COST * len(kept) / len(layers):.0%} more time"
    return Technique("checkpoint_every", True, detail)


def _list_towers(model: nn.Module) -> list[PreTrainedModel]:
    # A gradient flows through the language model even if only the towers before it learn.
    vision_tower, language_model = (find_tower(model, name) for name in ("vision_tower", "language_model"))
    learns = any(parameter.requires_grad for parameter in vision_tower.parameters())
    return [vision_tower, language_model] if learns else [language_model]


def _list_layers(tower: nn.Module) -> list[GradientCheckpointingLayer]:
    return [module for module in tower.modules() if isinstance(module, GradientCheckpointingLayer)]
