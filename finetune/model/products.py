"""Products in float32 on a CPU, computed by oneDNN while nothing learns.

PyTorch leaves them to MKL, which uses half of an AMD processor's vector width: oneDNN is twice as fast
there. Sums are added up in another order, so that results differ by rounding.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh

_LEAST = 10**6
"""Multiplications below which the call costs more than it saves."""


class Replacement(NamedTuple):
    """A module that computes its products in another way."""

    module: nn.Module
    run: Callable[..., Tensor]
    """Is given the module, its former `forward` and the input."""


def find_products(model: nn.Module) -> list[Replacement]:
    """Return the layers of a model that oneDNN can multiply by; none where PyTorch does not have it."""
    # Elsewhere PyTorch chooses oneDNN itself, or lacks it.
    is_x86 = platform.machine() in {"x86_64", "AMD64"}
    is_built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not is_x86 or not is_built or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return []
    found = []
    for module in model.modules():
        if _is_plain(module):
            found.append(Replacement(module, _multiply))
        elif isinstance(getattr(module, "activation_fn", None), GELUTanh) and _is_plain(module.fc1):
            found.append(Replacement(module, _run_siglip))
        elif isinstance(getattr(module, "act_fn", None), GELUTanh) and _is_plain(module.gate_proj):
            found.append(Replacement(module, _run_gemma))
    return found


@contextmanager
def multiplied_by_onednn(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Let oneDNN multiply in these modules, where no gradient is asked for and autocast is off."""
    former = [module.__dict__.get("forward") for module, _ in replacements]
    for module, run in replacements:
        module.forward = partial(run, module, module.forward)
    try:
        yield
    finally:
        for (module, _), forward in zip(replacements, former, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _is_plain(module: Any) -> bool:
    return type(module) is nn.Linear and _fits(module.weight)


def _fits(values: Tensor) -> bool:
    return values.dtype == torch.float32 and values.device.type == "cpu"


def _pays(x: Tensor, layer: nn.Linear) -> bool:
    is_learning = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return not is_learning and _fits(x) and x.numel() * layer.out_features >= _LEAST


def _multiply(layer: nn.Linear, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return _call(layer, x) if _pays(x, layer) else plain(x)


def _run_siglip(mlp: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """SigLIP's MLP."""
    if not _pays(x, mlp.fc1):
        return plain(x)
    y: Tensor = mlp.fc2(_call(mlp.fc1, x, "gelu"))
    return y


def _run_gemma(mlp: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gemma's MLP; what adapters the other two layers have, they apply."""
    if not _pays(x, mlp.gate_proj):
        return plain(x)
    y: Tensor = mlp.down_proj(_call(mlp.gate_proj, x, "gelu").mul_(mlp.up_proj(x)))
    return y


def _call(layer: nn.Linear, x: Tensor, then: str = "none") -> Tensor:
    """Multiply, and apply the activation while the product is in the processor's cache."""
    approximation = "tanh" if then == "gelu" else ""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, then, [], approximation)
    return y
