"""Installs the passes of `lean.py` in a model.

Each replaces a module's `forward` and falls back to the former one where it does not apply: without a
graph, as in evaluation; where an adapter is merged or switched off; without autocast if the formats differ.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.activations import GELUTanh

from finetune.model.lean import Gated, Matrix, Norm, Product, is_packed
from finetune.speed import SpeedOptions, Technique, switched_off


def install_lean_passes(
    model: nn.Module, speed: SpeedOptions, sharding: str | None = None
) -> list[Technique]:
    """Let adapted layers, Gemma's MLPs and its norms keep less, and write less.

    Not where weights are divided among devices (FSDP, DeepSpeed): they are gathered when the module that
    owns them is called, which an MLP or an adapted layer does not do here, and may be elsewhere in the
    backward pass.

    Args:
        model: a PaliGemma, with an adapter or without; changed in place.
        speed: which shortcuts are wanted.
        sharding: the option that divides weights among devices, if there is one.

    Returns:
        What became of them.
    """
    if sharding is not None:
        why = f"{sharding} divides the weights among devices"
        return [Technique(name, False, why) for name in ("lean_adapters", "lean_mlp", "lean_norms")]
    return [_install_products(model, speed), _install_gated(model, speed), _install_norms(model, speed)]


def _install_products(model: nn.Module, speed: SpeedOptions) -> Technique:
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    fitting = [layer for layer in layers if read_matrix(layer) is not None]
    if not fitting:
        why = _find_obstacle(layers[0]) if layers else "no adapter"
        return Technique("lean_adapters", False, why)
    if not speed.lean_adapters:
        return switched_off("lean_adapters")
    _replace(fitting, _run_linear)
    return Technique("lean_adapters", True, f"{len(fitting)} adapters are added in place")


def _install_gated(model: nn.Module, speed: SpeedOptions) -> Technique:
    mlps = [module for module in _by_class(model, "MLP") if isinstance(module.act_fn, GELUTanh)]
    fitting = [mlp for mlp in mlps if None not in map(read_matrix, _list_parts(mlp))]
    if not fitting:
        why = next(
            (_find_obstacle(part) for mlp in mlps for part in _list_parts(mlp)), "another activation"
        )
        return Technique("lean_mlp", False, why)
    if not speed.lean_mlp:
        return switched_off("lean_mlp")
    _replace(fitting, _run_gated)
    return Technique("lean_mlp", True, f"activation and product of {len(fitting)} MLPs are not kept")


def _install_norms(model: nn.Module, speed: SpeedOptions) -> Technique:
    if not speed.lean_norms:
        return switched_off("lean_norms")
    norms = list(_by_class(model, "RMSNorm"))
    _replace(norms, _run_norm)
    return Technique("lean_norms", True, f"{len(norms)} norms keep no float32 copy of their input")


def _by_class(model: nn.Module, end: str) -> Iterator[Any]:
    """Yield Gemma's and Gemma 2's modules of a kind."""
    names = {f"Gemma{end}", f"Gemma2{end}"}
    return (module for module in model.modules() if type(module).__name__ in names)


def _replace(parts: Iterable[nn.Module], run: Callable[..., Tensor]) -> None:
    for part in parts:
        part.forward = partial(run, part, part.forward)


def read_matrix(layer: Any) -> Matrix | None:
    """Return a linear layer as a matrix, with its adapter if it has one that is active and not merged.

    Returns:
        None if the layer does something else too.
    """
    if not isinstance(layer, LoraLayer):
        return _read_base(layer) if _is_linear(layer) else None
    if layer.merged or _find_obstacle(layer):
        return None
    name = next(iter(layer.active_adapters), "")
    if layer.disable_adapters or name not in layer.lora_A:
        return _read_base(layer.base_layer)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _read_base(layer.base_layer)._replace(a=a, b=b, scaling=layer.scaling[name])


def _read_base(base: Any) -> Matrix:
    return Matrix(base, None if is_packed(base) else base.weight, base.bias, None, None, 0.0)


def _find_obstacle(layer: Any) -> str:
    """Return what a layer does besides multiplying by matrices; empty if nothing."""
    if isinstance(layer, LoraLayer):
        if layer.lora_variant:
            return "DoRA scales the sum of weights and adapter"
        if not all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values()):
            return "peft.lora_dropout drops activations"
        if len(layer.active_adapters) > 1 or any(layer.lora_bias.values()):
            return "several adapters, or adapters with a bias"
        layer = layer.base_layer
    return "" if _is_linear(layer) else f"{type(layer).__name__} multiplies in its own way"


def _is_linear(layer: Any) -> bool:
    if type(layer) is nn.Linear:
        return True
    return isinstance(layer, nn.Linear) and is_packed(layer) and layer.bias is None


def _list_parts(mlp: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
    return mlp.gate_proj, mlp.up_proj, mlp.down_proj


def _read_fitting(layer: nn.Module, x: Tensor) -> Matrix | None:
    """Return a layer as a matrix for x; None without a graph, or if the formats differ."""
    matrix = read_matrix(layer) if torch.is_grad_enabled() else None
    if matrix is None or torch.is_autocast_enabled(x.device.type):
        return matrix
    is_same = all(parameter is None or parameter.dtype == x.dtype for parameter in matrix.parameters)
    return matrix if is_same else None


def _find_dtype(x: Tensor) -> torch.dtype:
    """Return the format of products with x: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _run_linear(layer: Any, plain: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    matrix = None if args or kwargs else _read_fitting(layer, x)
    if matrix is None:
        return plain(x, *args, **kwargs)
    y: Tensor = Product.apply(x, matrix, _find_dtype(x), *matrix.parameters)  # type: ignore[no-untyped-call]
    return y


def _run_gated(mlp: Any, plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    matrices = [_read_fitting(part, x) for part in _list_parts(mlp)]
    if None in matrices:
        return plain(x)
    parameters = (parameter for matrix in matrices if matrix for parameter in matrix.parameters)
    y: Tensor = Gated.apply(x, matrices, _find_dtype(x), *parameters)  # type: ignore[no-untyped-call]
    return y


def _run_norm(norm: Any, plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return plain(x)
    y: Tensor = Norm.apply(x, norm.weight, norm.eps)  # type: ignore[no-untyped-call]
    return y
