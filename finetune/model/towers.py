"""PaliGemma's three parts, under their names in transformers."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # read by the configuration, so that help answers without torch
    from torch import nn
    from transformers import PreTrainedModel


class Tower(StrEnum):
    """PaliGemma's three parts, under their names in transformers."""

    vision_tower = "vision_tower"
    multi_modal_projector = "multi_modal_projector"
    language_model = "language_model"


def tower_of(name: str) -> Tower:
    """Return the tower that a parameter or module belongs to, by its dotted name.

    The output layer shares the embeddings' weights, so it counts as the language model's.

    Raises:
        ValueError: the name is not in any of them.
    """
    parts = name.split(".")
    for tower in Tower:
        if tower in parts:
            return tower
    if "lm_head" in parts:
        return Tower.language_model
    raise ValueError(f"{name} is not in any of PaliGemma's towers")


def find_tower(model: "nn.Module", tower: str) -> "PreTrainedModel":
    """Return a tower of a PaliGemma, with an adapter or without, wrapped for distribution or not."""
    found: PreTrainedModel = next(
        module for name, module in model.named_modules() if name.rpartition(".")[2] == tower
    )
    return found
