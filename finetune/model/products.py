"""Products in float32 on a CPU, computed by oneDNN while nothing learns.

PyTorch leaves them to MKL, which uses half of an AMD processor's vector width: oneDNN is twice as fast
there. Sums are added up in another order, so that results differ by rounding.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

_LEAST = 10**6
"""Multiplications below which the call costs more than it saves."""


def find_products(model: nn.Module) -> list[nn.Linear]:
    """Return the layers of a model that oneDNN can multiply by; none where PyTorch does not have it."""
    # Elsewhere PyTorch chooses oneDNN itself, or lacks it.
    is_x86 = platform.machine() in {"x86_64", "AMD64"}
    is_built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not is_x86 or not is_built or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return []
    return [module for module in model.modules() if type(module) is nn.Linear and _fits(module.weight)]


@contextmanager
def multiplied_by_onednn(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Let oneDNN multiply by these layers, where no gradient is asked for and autocast is off."""
    former = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_multiply, layer, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer, forward in zip(layers, former, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward  # type: ignore[method-assign]


def _fits(values: Tensor) -> bool:
    return values.dtype == torch.float32 and values.device.type == "cpu"


def _multiply(layer: nn.Linear, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    is_learning = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    if is_learning or not _fits(x) or x.numel() * layer.out_features < _LEAST:
        return plain(x)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return y
