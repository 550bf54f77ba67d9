"""Regional compilation: each decoder layer and SigLIP layer by itself, all of a kind by one graph."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import UserError
from finetune.model.lean import is_packed
from finetune.model.towers import find_tower
from finetune.speed import SpeedOptions, Technique


def compile_layers(model: nn.Module, speed: SpeedOptions, backend: str = "inductor") -> Technique:
    """Compile the layers of both towers for training, in place: parameters and their names stay.

    In evaluation layers run as they are: shapes differ at each step of generation. The last decoder layer is
    not compiled, because it is computed at few positions.

    Args:
        model: a PaliGemma, with an adapter or without, after every other change.
        speed: `compile` is read.
        backend: of torch.compile.

    Raises:
        UserError: it was asked for and cannot be done.
    """
    if speed.compile is False:
        return Technique("compile", False, "by trainer.speed.compile")
    obstacle = _find_obstacle(model)
    if speed.compile is None:
        if not torch.cuda.is_available():
            return Technique("compile", False, "on a CPU it takes longer than it saves")
        if obstacle is None and find_spec("triton") is None:
            obstacle = "triton is not installed"
    if obstacle is not None:
        if speed.compile:
            raise UserError(f"trainer.speed.compile=true: {obstacle}. Leave it as null, which is off then.")
        return Technique("compile", False, obstacle)
    layers = [
        *find_tower(model, "vision_tower").encoder.layers,
        *find_tower(model, "language_model").layers[:-1],
    ]
    for layer in layers:
        plain = layer.forward
        # Dynamic: texts of another length are no reason to compile again.
        layer.forward = partial(_run, layer, plain, torch.compile(plain, dynamic=True, backend=backend))
    return Technique("compile", True, f"{len(layers)} layers, as they are met in the first steps")


def _find_obstacle(model: nn.Module) -> str | None:
    for module in model.modules():
        if isinstance(module, nn.Linear) and (is_packed(module) or hasattr(module.weight, "SCB")):
            return "layers quantized by bitsandbytes are not compiled"
    return None


def _run(
    layer: nn.Module,
    plain: Callable[..., Tensor],
    compiled: Callable[..., Tensor],
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    return (compiled if layer.training else plain)(*args, **kwargs)
