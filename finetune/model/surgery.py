"""Changes to a model that has been frozen and adapted, before it trains."""

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from finetune.model.dropout import drop_residual_branches


def operate(model: nn.Module, llm_dropout: float, activation_checkpointing: bool, autocast: bool) -> None:
    """Change a model in place; the order of the steps matters.

    Args:
        model: a PaliGemma, with an adapter or without. Its `requires_grad` must be final: the second and
            third step choose towers by it.
        llm_dropout: see `drop_residual_branches`.
        activation_checkpointing: recompute activations in the backward pass.
        autocast: whether the model is called under autocast.
    """
    # 1. Hooks on the branches inside a layer, which step 3 wraps as a whole: they are run again when it is
    #    recomputed, under the same random state, and drop the same numbers.
    drop_residual_branches(model, llm_dropout)
    # 2. Before step 3, whose hook on the embeddings makes a frozen tower's activations require a gradient.
    run_frozen_tower_without_graph(model)
    # 3. It wraps whatever a layer does by then.
    if activation_checkpointing:
        enable_activation_checkpointing(model)
    if autocast:
        leave_casts_to_autocast(model)


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
    # A gradient flows through the language model even if only the towers before it learn.
    towers = [_find(model, "language_model")]
    vision_tower = _find(model, "vision_tower")
    if any(parameter.requires_grad for parameter in vision_tower.parameters()):
        towers.append(vision_tower)
    for tower in towers:
        tower.activation_checkpointing_enable({"use_reentrant": False})


def leave_casts_to_autocast(model: nn.Module) -> int:
    """Keep LoRA layers from making a float32 copy of their input, which autocast converts back at once.

    Bitwise equal, in forward and backward: the copy has the values of the half-precision input. Not for
    DoRA, which computes norms in the precision of the input, and only where the model is always called
    under autocast, because a float32 matrix takes no half-precision input without it.

    Returns:
        The number of layers that were changed.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    plain = [layer for layer in layers if not layer.lora_variant]
    for layer in plain:
        layer.cast_input_dtype_enabled = False
    return len(plain)


def _find(model: nn.Module, tower: str) -> PreTrainedModel:
    return next(module for name, module in model.named_modules() if name.endswith(tower))
