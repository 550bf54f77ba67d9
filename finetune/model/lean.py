"""Forward and backward passes of a decoder layer's parts that write and keep less, with the same gradients.

PEFT adds `lora_B(lora_A(x)) * scaling` to a layer's output in three steps, each of which writes a tensor of
the output's size, and autograd keeps the MLP's gate, its activation, its value and their product. Here an
adapter is added in place by one product, and activation, product and norms are computed again in the
backward pass from what is kept anyway.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATION = "tanh"
"""Gemma's approximation of GELU."""


class Matrix(NamedTuple):
    """A linear layer with an adapter or without: y = x W^T + b + scaling (x A^T) B^T."""

    base: nn.Linear
    """`nn.Linear`, or bitsandbytes' in 4 bits, which is unpacked for the backward pass."""
    weight: Tensor | None
    """None in 4 bits."""
    bias: Tensor | None
    a: Tensor | None
    b: Tensor | None
    scaling: float

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        """Weight, bias, A and B."""
        return self.weight, self.bias, self.a, self.b


def is_packed(base: Any) -> bool:
    """Return whether the weights of a linear layer are quantized to 4 bits."""
    return hasattr(base.weight, "quant_state")


def multiply(matrix: Matrix, x: Tensor, *, by_columns: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return y, and x A^T, which its backward pass needs: (N, out) and (N, r).

    Args:
        matrix: of a layer.
        x: (N, in).
        by_columns: whether y may lie in memory as its transpose, which a CPU computes a little faster.
    """
    weight, bias, a, b = (
        None if parameter is None else parameter.to(x.dtype) for parameter in matrix.parameters
    )
    low = None if a is None else x @ a.t()
    if by_columns and weight is not None and bias is None and x.device.type == "cpu":
        columns = torch.mm(weight, x.t())
        if b is not None and low is not None:
            columns.addmm_(b, low.t(), alpha=matrix.scaling)
        return columns.t(), low
    y = matrix.base(x) if weight is None else functional.linear(x, weight, bias)
    if b is not None and low is not None:
        y.addmm_(low, b.t(), alpha=matrix.scaling)
    return y, low


def multiply_back(
    matrix: Matrix,
    grad: Tensor,
    x: Tensor,
    low: Tensor | None,
    into: Tensor | None = None,
    *,
    is_wanted: bool = True,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradients of x and of the matrix's parameters.

    Args:
        matrix: as it was multiplied.
        grad: of y, (N, out).
        x: (N, in).
        low: x A^T.
        into: gradient of x by another matrix, to which this one's is added in place.
        is_wanted: whether something before x learns.
    """
    weight, bias, a, b = matrix.parameters
    gradients: list[Tensor | None] = [None] * 4
    if weight is not None and weight.requires_grad:
        gradients[0] = (grad.t() @ x).to(weight.dtype)
    if bias is not None and bias.requires_grad:
        gradients[1] = grad.sum(0).to(bias.dtype)
    grad_low = None
    if a is not None and b is not None and low is not None:
        grad_low = (grad @ b.to(x.dtype)).mul_(matrix.scaling)
        gradients[2] = (grad_low.t() @ x).to(a.dtype)
        gradients[3] = (grad.t() @ low).mul_(matrix.scaling).to(b.dtype)
    if not is_wanted:
        return None, gradients
    grad_x = _times(grad, unpack(matrix, x.dtype), into)
    if a is not None and grad_low is not None:
        grad_x.addmm_(grad_low, a.to(x.dtype))
    return grad_x, gradients


def _times(rows: Tensor, weights: Tensor, into: Tensor | None) -> Tensor:
    """Return rows @ weights, added in place to `into` if there is one."""
    if rows.device.type != "cpu":
        return torch.mm(rows, weights) if into is None else into.addmm_(rows, weights)
    # oneDNN takes a third more time for Gemma's matrices in this order than for their transposes.
    factors = weights.t(), rows.t()
    return (torch.mm(*factors) if into is None else into.t().addmm_(*factors)).t()


def unpack(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """Return the weights as (out, in)."""
    if matrix.weight is not None:
        return matrix.weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    packed: Any = matrix.base.weight
    return dequantize_4bit(packed.data.view(-1, 1), packed.quant_state).to(dtype)


class Product(torch.autograd.Function):
    """A linear layer with its adapter; keeps x and x A^T."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, matrix: Matrix, dtype: torch.dtype, *parameters: Tensor | None
    ) -> Tensor:
        flat = x.flatten(0, -2).to(dtype)
        y, low = multiply(matrix, flat)
        ctx.save_for_backward(flat, low)
        ctx.matrix, ctx.dtype = matrix, x.dtype
        return y.reshape(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # noqa: D102
        x, low = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_x, gradients = multiply_back(ctx.matrix, flat, x, low, is_wanted=ctx.needs_input_grad[0])
        return _shape(grad_x, grad, ctx.dtype), None, None, *gradients


class Gated(torch.autograd.Function):
    """Gemma's MLP, `down(gelu(gate(x)) * up(x))`; keeps x, gate and up."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, matrices: Sequence[Matrix], dtype: torch.dtype, *parameters: Tensor | None
    ) -> Tensor:
        flat = x.flatten(0, -2).to(dtype)
        gate_matrix, up_matrix, down_matrix = matrices
        (gate, gate_low), (up, up_low) = (
            multiply(matrix, flat, by_columns=True) for matrix in (gate_matrix, up_matrix)
        )
        product = functional.gelu(gate, approximate=ACTIVATION).mul_(up)
        y, down_low = multiply(down_matrix, product, by_columns=True)
        ctx.save_for_backward(flat, gate, up, gate_low, up_low, down_low)
        ctx.matrices, ctx.dtype = matrices, x.dtype
        return y.contiguous().view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # noqa: D102
        x, gate, up, gate_low, up_low, down_low = ctx.saved_tensors
        gate_matrix, up_matrix, down_matrix = ctx.matrices
        active = functional.gelu(gate, approximate=ACTIVATION)
        grad_product, down = multiply_back(down_matrix, grad.flatten(0, -2), active * up, down_low)
        assert grad_product is not None
        if grad_product.stride() != gate.stride():
            grad_product = grad_product.contiguous()
        grad_up = active.mul_(grad_product)
        grad_gate = torch.ops.aten.gelu_backward(grad_product.mul_(up), gate, approximate=ACTIVATION)
        del grad_product
        wanted = ctx.needs_input_grad[0]
        grad_x, first = multiply_back(gate_matrix, grad_gate, x, gate_low, is_wanted=wanted)
        del grad_gate
        grad_x, second = multiply_back(up_matrix, grad_up, x, up_low, grad_x, is_wanted=wanted)
        return _shape(grad_x, grad, ctx.dtype), None, None, *first, *second, *down


def _shape(grad_x: Tensor | None, grad: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return the gradient of x, (N, in), in the shape and format of x."""
    if grad_x is None:
        return None
    return grad_x.contiguous().view(*grad.shape[:-1], -1).to(dtype)


class Norm(torch.autograd.Function):
    """Gemma's RMSNorm, computed in float32; keeps x as it is, and the inverse of its size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # noqa: D102
        wide = x.float()
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, inverse, weight)
        return (wide * inverse).mul_(1.0 + weight.float()).type_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: D102
        x, inverse, weight = ctx.saved_tensors
        wide, unit = grad.float(), x.float() * inverse
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (wide * unit).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        scaled = wide * (1.0 + weight.float())
        share = (scaled * unit).mean(-1, keepdim=True)
        return scaled.sub_(unit.mul_(share)).mul_(inverse).type_as(x), grad_weight, None
