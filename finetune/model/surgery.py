"""Changes to a model that has been frozen and adapted, before it trains."""

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from finetune.model.checkpointing import describe_checkpointing, enable_activation_checkpointing
from finetune.model.dropout import drop_residual_branches
from finetune.model.features import drops_activations, take_images
from finetune.model.last_layer import compute_supervised_rows
from finetune.model.lean_layers import install_lean_passes
from finetune.model.towers import find_tower
from finetune.speed import SpeedOptions, Technique, switched_off


def operate(
    model: nn.Module,
    speed: SpeedOptions,
    *,
    llm_dropout: float = 0.0,
    activation_checkpointing: bool = False,
    autocast: bool = False,
    sharding: str | None = None,
) -> list[Technique]:
    """Change a model in place; the order of the steps matters.

    Args:
        model: a PaliGemma, with an adapter or without. Its `requires_grad` must be final: towers are chosen
            by it.
        speed: which shortcuts are wanted.
        llm_dropout: see `drop_residual_branches`.
        activation_checkpointing: recompute activations in the backward pass, of every layer unless
            `speed.checkpoint_every` says otherwise.
        autocast: whether the model is called under autocast.
        sharding: the option that divides its weights among devices; None: each device has them all.

    Returns:
        What became of the shortcuts.
    """
    # 1. Hooks on the branches inside a layer, which step 3 wraps as a whole: they are run again when it is
    #    recomputed, under the same random state, and drop the same numbers.
    drop_residual_branches(model, llm_dropout)
    # 2. Of the towers that learn, step 3 wraps the layers.
    techniques = [run_frozen_tower_without_graph(model, speed)]
    # 3. It wraps whatever a layer does by then.
    if activation_checkpointing:
        enable_activation_checkpointing(model, speed.checkpoint_every or 1)
    techniques.append(leave_casts_to_autocast(model, speed, autocast))
    techniques += install_lean_passes(model, speed, sharding)
    techniques.append(reduce_last_layer(model, speed))
    techniques.append(describe_checkpointing(model))
    techniques.append(share_images(model, speed))
    return techniques


def run_frozen_tower_without_graph(model: nn.Module, speed: SpeedOptions) -> Technique:
    """Run SigLIP under `no_grad` if none of it learns.

    Activation checkpointing and PEFT make embeddings require a gradient, SigLIP's patches among them;
    the frozen tower would then be stored, recomputed and back-propagated for nothing.
    """
    tower = find_tower(model, "vision_tower")
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return Technique("frozen_tower", False, "the vision tower learns")
    if not speed.frozen_tower:
        return switched_off("frozen_tower")
    tower.forward = torch.no_grad()(tower.forward)
    return Technique("frozen_tower", True, "nothing of the vision tower is kept for the backward pass")


def reduce_last_layer(model: nn.Module, speed: SpeedOptions) -> Technique:
    """Compute the last decoder layer at supervised positions only; see `last_layer.py`."""
    compute_supervised_rows(model, everywhere=not speed.last_layer)
    if not speed.last_layer:
        return switched_off("last_layer")
    return Technique("last_layer", True, "the last decoder layer at supervised positions only")


def share_images(model: nn.Module, speed: SpeedOptions) -> Technique:
    """Run tower and projector once for each distinct image of a batch; see `features.py`."""
    inner = take_images(model)
    drops = any(map(drops_activations, (inner.vision_tower, inner.multi_modal_projector)))
    take_images(model, distinct=speed.distinct_images and not drops)
    if not speed.distinct_images:
        return switched_off("distinct_images")
    if drops:
        return Technique("distinct_images", False, "dropout draws for each image of a batch anew")
    return Technique("distinct_images", True, "an image that is in a batch several times is encoded once")


def leave_casts_to_autocast(model: nn.Module, speed: SpeedOptions, autocast: bool) -> Technique:
    """Keep LoRA layers from making a float32 copy of their input, which autocast converts back at once.

    Bitwise equal, in forward and backward: the copy has the values of the half-precision input. Not for
    DoRA, which computes norms in the precision of the input, and only where the model is always called
    under autocast, because a float32 matrix takes no half-precision input without it.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    plain = [layer for layer in layers if not layer.lora_variant]
    if not plain:
        why = "DoRA computes norms in the precision of the input" if layers else "no adapter"
        return Technique("half_inputs", False, why)
    if not autocast:
        return Technique("half_inputs", False, "nothing is computed in half precision (trainer.bf16, fp16)")
    if not speed.half_inputs:
        return switched_off("half_inputs")
    for layer in plain:
        layer.cast_input_dtype_enabled = False
    return Technique(
        "half_inputs", True, f"{len(plain)} adapted layers take their input without a float32 copy"
    )
