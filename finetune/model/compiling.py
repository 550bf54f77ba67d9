"""Regional compilation: each decoder layer and SigLIP layer by itself, all of a kind by the same graphs.

Only while a model trains, and only its passes in training: evaluation, generation, saving and merging see
plain layers, and names of parameters never change.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune.errors import UserError
from finetune.model.features import drops_activations
from finetune.model.lean import is_packed
from finetune.model.towers import find_tower
from finetune.speed import SpeedOptions, Technique, switched_off

_GRAPHS = 32
"""Graphs of one kind of layer, at most; then it runs as it is. The usual are one or two for each of: a
tower, an input with or without gradient, recomputed or not, prefixes of one length or several."""


def plan_compilation(
    model: nn.Module, speed: SpeedOptions, *, other: str | None = None, drops: bool = False
) -> Technique:
    """Return whether layers are compiled, and why not.

    Args:
        model: a PaliGemma, with an adapter or without, after every other change.
        speed: `compile` is read.
        other: an option that does not go together with it; None: none.
        drops: whether branches of layers are dropped; see `drop_residual_branches`.

    Raises:
        UserError: it was asked for and cannot be done.
    """
    if speed.compile is False:
        return switched_off("compile")
    obstacle = _find_obstacle(model) if other is None else f"it does not go together with {other}"
    if obstacle is not None and speed.compile:
        raise UserError(f"trainer.speed.compile=true cannot apply: {obstacle}. Leave it out.")
    if obstacle is None and speed.compile is None:
        if not torch.cuda.is_available():
            obstacle = "on a CPU it takes longer than it saves"
        elif drops or drops_activations(model):
            obstacle = "compiled dropout draws other numbers"
    if obstacle is not None:
        return Technique("compile", False, obstacle)
    what = f"{len(_list_layers(model))} layers, each kind by itself, in the first steps"
    return Technique("compile", True, f"{what}; there, the compiler takes the place of lean_*")


def _find_obstacle(model: nn.Module) -> str | None:
    """Return why layers cannot be compiled here."""
    if not all(isinstance(layer, GradientCheckpointingLayer) for layer in _list_layers(model)):
        return "layers copied for peft.modules_to_save are not compiled"
    for module in model.modules():
        if isinstance(module, nn.Linear) and (is_packed(module) or hasattr(module.weight, "SCB")):
            return "layers quantized by bitsandbytes are not compiled"
        if isinstance(module, LoraLayer) and module.lora_variant:
            return "the compiler does not follow DoRA's layers"
    if torch.cuda.is_available():
        return None if find_spec("triton") else "triton is not installed"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "no C++ compiler is installed (g++ or clang++)"
    return None


def _list_layers(model: nn.Module) -> list[Any]:
    """Return the layers to compile: not the last decoder layer, which is computed at few positions."""
    return [
        *find_tower(model, "vision_tower").encoder.layers,
        *find_tower(model, "language_model").layers[:-1],
    ]


@contextmanager
def compiled_layers(model: nn.Module, technique: Technique, backend: str = "inductor") -> Iterator[None]:
    """Compile the layers of both towers while the block runs, if `plan_compilation` says so.

    Args:
        model: a PaliGemma, with an adapter or without, wrapped for distribution or not.
        technique: what `plan_compilation` returned.
        backend: of torch.compile.
    """
    if not technique.is_on:
        yield
        return
    layers = _list_layers(model)
    # Parts of a layer that run in a way of their own, each by an object of its own: the compiler would make
    # a graph for each of them, and fuses the plain operations itself.
    own = [(part, vars(part).pop("forward")) for part in _list_parts(layers) if "forward" in vars(part)]
    for layer in layers:
        plain = MethodType(type(layer).forward.__wrapped__, layer)  # without transformers' checkpointing
        # Dynamic: texts of another length are no reason to compile again.
        compiled = torch.compile(plain, dynamic=True, backend=backend)
        layer.forward = partial(_run, layer, plain, compiled)
    try:
        # Not `optimize_ddp`: it would cut each graph at the limits of DistributedDataParallel's buckets.
        with torch._dynamo.config.patch(recompile_limit=_GRAPHS, optimize_ddp=False):
            yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]
        for part, forward in own:
            part.forward = forward


def _list_parts(layers: Iterable[nn.Module]) -> list[nn.Module]:
    return [part for layer in layers for part in layer.modules()]


def _run(
    layer: Any, plain: Callable[..., Tensor], compiled: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> Tensor:
    """Run a layer: in evaluation plainly, because lengths differ at each step of generation."""
    if not layer.training:
        return plain(*args, **kwargs)
    if layer.gradient_checkpointing:
        # Around the graph, which is then the same as of a layer that is not recomputed.
        again: Tensor = layer._gradient_checkpointing_func(partial(compiled, **kwargs), *args)
        return again
    return compiled(*args, **kwargs)
