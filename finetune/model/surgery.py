"""Changes to a model that has been frozen and adapted, before it trains."""

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune.model.dropout import drop_residual_branches


def operate(model: nn.Module, llm_dropout: float, activation_checkpointing: bool) -> None:
    """Change a model in place; the order of the steps matters.

    Args:
        model: a PaliGemma, with an adapter or without, its `requires_grad` final: the second and third step
            choose towers by it.
        llm_dropout: see `drop_residual_branches`.
        activation_checkpointing: recompute activations in the backward pass.
    """
    # 1. Hooks on the branches inside a layer, which step 3 wraps as a whole: they are run again when it is
    #    recomputed, under the same random state, and drop the same numbers.
    drop_residual_branches(model, llm_dropout)
    # 2. Before step 3, whose hook on the embeddings makes a frozen tower's activations require a gradient.
    run_frozen_tower_without_graph(model)
    # 3. Last: it wraps whatever a layer does by then.
    if activation_checkpointing:
        enable_activation_checkpointing(model)


def run_frozen_tower_without_graph(model: nn.Module) -> bool:
    """Run SigLIP under `no_grad` if none of it learns.

    Activation checkpointing and PEFT make embeddings require a gradient, SigLIP's patches among them;
    the frozen tower would then be stored, recomputed and back-propagated for nothing.

    Returns:
        Whether the tower is frozen.
    """
    tower = _find(model, "vision_tower")
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return False
    tower.forward = torch.no_grad()(tower.forward)
    return True


def enable_activation_checkpointing(model: nn.Module) -> None:
    """Recompute the activations of those towers through which a gradient flows.

    Non-reentrant, so that frozen embeddings need no gradient of their own.
    """
    # A gradient flows through the language model to the image features, whether it learns itself or not.
    towers = [_find(model, "language_model")]
    vision_tower = _find(model, "vision_tower")
    if any(parameter.requires_grad for parameter in vision_tower.parameters()):
        towers.append(vision_tower)
    for tower in towers:
        tower.activation_checkpointing_enable({"use_reentrant": False})


def _find(model: nn.Module, tower: str) -> PreTrainedModel:
    return next(module for name, module in model.named_modules() if name.endswith(tower))
