"""Which parameters learn.

One policy decides for full fine-tuning (`requires_grad`) and for adapters (which layers get one).
"""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError

TOWERS = ("vision_tower", "multi_modal_projector", "language_model")


def tower_of(name: str) -> str:
    """Return the tower that a parameter or module belongs to, by its dotted name.

    The output layer shares the embeddings' weights, so it counts as the language model's.
    """
    parts = name.split(".")
    for tower in TOWERS:
        if tower in parts:
            return tower
    if "lm_head" in parts:
        return "language_model"
    raise ValueError(f"{name} lies in none of PaliGemma's towers")


@dataclass(frozen=True)
class FreezePolicy:
    """What of each tower learns: `all`, `attention` or `none`.

    Args:
        vision_tower: SigLIP.
        multi_modal_projector: the linear layer between; `all` or `none`.
        language_model: Gemma.
        last_n: restricts the language model to its last n layers.
    """

    vision_tower: str = "all"
    multi_modal_projector: str = "all"
    language_model: str = "all"
    last_n: int | None = None

    def learns(self, name: str, layers: int) -> bool:
        """Whether a parameter learns.

        Args:
            name: its dotted name.
            layers: number of layers of the language model.
        """
        tower = tower_of(name)
        what: str = getattr(self, tower)
        if what == "none" or (what == "attention" and ".self_attn." not in name):
            return False
        if tower != "language_model" or self.last_n is None:
            return True
        layer = re.search(r"\.layers\.(\d+)\.", name)
        return layer is not None and int(layer[1]) >= layers - self.last_n

    def check(self, layers: int) -> None:
        """Raise if there are fewer layers than `last_n`."""
        if self.last_n is not None and self.last_n > layers:
            raise UserError(
                f"freeze.last_n={self.last_n}, but the language model has {layers} layers: "
                f"give 1 to {layers}."
            )


def apply_freeze(model: PaliGemmaForConditionalGeneration, policy: FreezePolicy) -> None:
    """Set `requires_grad` of every parameter.

    Raises:
        UserError: nothing would learn.
    """
    layers = count_layers(model)
    policy.check(layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(policy.learns(name, layers))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("Nothing would learn: choose another `freeze`.")


def count_layers(model: PaliGemmaForConditionalGeneration) -> int:
    """Return the number of the language model's layers."""
    return int(model.config.get_text_config().num_hidden_layers)


def run_frozen_tower_without_graph(model: nn.Module) -> bool:
    """Run SigLIP under `no_grad` where none of it learns.

    Activation checkpointing and PEFT make embeddings require a gradient, SigLIP's patches among them;
    the frozen tower would then be stored, recomputed and back-propagated for nothing.

    Returns:
        Whether the tower is frozen.
    """
    tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return False
    tower.forward = torch.no_grad()(tower.forward)
    return True


def checkpoint_activations(model: nn.Module) -> None:
    """Recompute the activations of those towers through which a gradient flows.

    Non-reentrant, so that frozen embeddings need no gradient of their own.
    """
    for name, module in model.named_modules():
        if name.endswith(("language_model", "vision_tower")) and (
            name.endswith("language_model")
            or any(parameter.requires_grad for parameter in module.parameters())
        ):
            module.activation_checkpointing_enable({"use_reentrant": False})
