"""Parameter groups: learning rate and weight decay by tower."""

import logging
from collections import defaultdict
from typing import TypedDict

from torch import nn

from finetune.model.towers import Tower, tower_of
from finetune.training.options import TowerOptimizer, TowerOptimizers

log = logging.getLogger(__name__)


class ParameterGroup(TypedDict):
    """Learning parameters that share a learning rate and a weight decay."""

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: float


def build_parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, towers: TowerOptimizers
) -> list[ParameterGroup]:
    """Group the learning parameters for an optimizer.

    Args:
        model: whose parameters.
        learning_rate: of towers without an exception.
        weight_decay: of towers without an exception; norms, biases and SigLIP's position table never decay:
            big_vision decays the parameters called `kernel`.
        towers: exceptions by tower.

    Returns:
        The groups, in the order of the model.
    """
    members: dict[tuple[Tower, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and "position_embedding" not in name
            members[tower_of(name), is_matrix].append(parameter)
    for tower in Tower:
        if getattr(towers, tower) != TowerOptimizer() and not any(tower == part for part, _ in members):
            log.warning("warning: trainer.towers.%s has no effect: nothing of this tower learns.", tower)
    groups: list[ParameterGroup] = []
    for (tower, is_matrix), parameters in members.items():
        rates: TowerOptimizer = getattr(towers, tower)
        decay = weight_decay if rates.weight_decay is None else rates.weight_decay
        rate = learning_rate if rates.learning_rate is None else rates.learning_rate
        groups.append(
            {
                "name": f"{tower}.{'matrices' if is_matrix else 'vectors'}",
                "params": parameters,
                "lr": rate,
                "weight_decay": decay if is_matrix else 0.0,
            }
        )
    return groups
