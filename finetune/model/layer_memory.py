"""The memory that one layer needs in a training step, counted on fake tensors.

Fake tensors have shapes and no content, so that nothing is computed. A layer of the model runs forward and
backward on them, and every storage is counted from the operator that makes it until nothing refers to it.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PaliGemmaConfig

from finetune.model.attention import KERNELS, PrefixRows
from finetune.model.loss import compute_token_losses
from finetune.model.towers import Tower

HEAP_BLOCK = 32 * 2**20
"""Bytes from which glibc gives every block to the system when it is freed: the maximum of M_MMAP_THRESHOLD,
which it reaches by itself. Smaller ones leave holes in its heap."""


class Bytes(NamedTuple):
    """Bytes of a part of the model, between the parts before and after it."""

    kept: int
    """From its forward to its backward pass, with its output, without its input."""
    most: int
    """At most during either pass, with what is kept, its gradients, and that of its output."""
    small: int
    """Of what is kept, in blocks below `HEAP_BLOCK`."""
    copies: int
    """Of what is kept, even where the part is computed again: copies of learning weights in autocast's
    format."""


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operators make while they are referred to.

    Args:
        given: tensors that are not counted, nor views of them.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.most = self.small = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run an operator, and count what it makes."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.bytes += size
        self.small += size * (size < HEAP_BLOCK)
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size
        self.small -= size * (size < HEAP_BLOCK)


class LayerInput(NamedTuple):
    """What a layer is given."""

    tower: Tower
    examples: int
    tokens: int
    """Of one example."""
    supervised: int | None
    """Positions of an example at which it is computed; None: all."""
    kernel: str = "sdpa"
    """Of the decoder's attention: a name of `KERNELS`, or `sdpa` or `eager` for the dense mask."""
    unmasked: int = 0
    """Positions that need no mask where the kernel is one of `KERNELS`: those of the images."""

    @property
    def mask_shape(self) -> tuple[int, int, int, int]:
        """Of the mask that all layers share."""
        masked = self.tokens - self.unmasked * (self.kernel in KERNELS)
        return self.examples, 1, masked, self.tokens


def count_layer(
    layer: nn.Module, given: LayerInput, config: PaliGemmaConfig, half: torch.dtype | None
) -> Bytes:
    """Count a decoder or encoder layer through which a gradient flows.

    Args:
        layer: on any device; nothing of it is changed.
        given: the size of its input.
        config: of the model.
        half: data type of autocast; None without autocast.
    """
    dtype = hidden_dtype(layer)
    with FakeTensorMode():
        weights = _fake(layer)
        hidden = torch.empty(given.examples, given.tokens, _width(given.tower, config), dtype=dtype)
        hidden.requires_grad_()
        shared = [hidden, *weights.values()]
        inputs: dict[str, object] = {"attention_mask": None}
        if given.tower == Tower.language_model:
            angles = torch.empty(1, given.tokens, config.text_config.head_dim, dtype=dtype)
            # As the model is called: added to the scores by `eager`, and boolean for all other kernels.
            mask = torch.empty(given.mask_shape, dtype=dtype if given.kernel == "eager" else torch.bool)
            inputs = {"attention_mask": mask, "position_embeddings": (angles, angles)}
            if given.kernel in KERNELS:
                inputs["prefix"] = (PrefixRows(given.unmasked, (given.tokens,), mask),)
            shared += [angles, mask]  # one for all layers
        if given.supervised is not None:
            columns = torch.zeros(given.examples, given.supervised, dtype=torch.int64)
            inputs |= {"supervised_columns": columns, "supervised_places": columns.flatten()}
        with _attending(layer.self_attn, given):
            return _count(lambda: functional_call(layer, weights, (hidden,), inputs), shared, half)


@contextmanager
def _attending(attention: Any, given: LayerInput) -> Iterator[None]:
    """Let a decoder layer attend by a kernel, and by its own again afterwards."""
    if given.tower != Tower.language_model:
        yield
        return
    config, cap = attention.config, getattr(attention, "attn_logit_softcapping", None)
    own, config._attn_implementation = config._attn_implementation, given.kernel
    if given.kernel == "flex":
        # It has no gradients on a CPU, where fake tensors are. `split_sdpa` keeps the same, but has no
        # soft-cap.
        config._attn_implementation = "split_sdpa"
        if cap is not None:
            attention.attn_logit_softcapping = None
    try:
        yield
    finally:
        config._attn_implementation = own
        if cap is not None:
            attention.attn_logit_softcapping = cap


def count_head(head: nn.Module, rows: int, config: PaliGemmaConfig, half: torch.dtype | None) -> Bytes:
    """Count the output layer and the loss, at the supervised tokens of a batch.

    Args:
        head: `lm_head`.
        rows: supervised tokens of the batch.
        config: of the model.
        half: data type of autocast; None without autocast.
    """
    with FakeTensorMode():
        weights = _fake(head)
        dtype = next(iter(weights.values())).dtype
        hidden = torch.empty(rows, config.text_config.hidden_size, dtype=dtype).requires_grad_()
        targets = torch.zeros(rows, dtype=torch.int64)
        shared = [hidden, targets, *weights.values()]
        return _count(
            lambda: compute_token_losses(functional_call(head, weights, (hidden,)), targets), shared, half
        )


def hidden_dtype(layer: nn.Module) -> torch.dtype:
    """Return the format of the hidden states: that of the norms."""
    return next(weight.dtype for name, weight in layer.named_parameters() if "norm" in name)


def _fake(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.empty(weight.shape, dtype=weight.dtype).requires_grad_(weight.requires_grad)
        for name, weight in [*module.named_parameters(), *module.named_buffers()]
    }


def _count(forward: Callable[[], Tensor], shared: list[Tensor], half: torch.dtype | None) -> Bytes:
    # On the CPU, where fake tensors need no GPU; what is saved has the same size there.
    autocast: AbstractContextManager[object] = torch.autocast(
        "cpu", half or torch.bfloat16, enabled=half is not None
    )
    with Live(shared) as live:
        with autocast:
            output = forward()
        kept, small = live.bytes, live.small
        torch.autograd.backward(output, torch.empty_like(output))
        most = live.most
        del output
    return Bytes(kept, most, small, _count_copies(forward, shared, autocast))


def _count_copies(
    forward: Callable[[], Tensor], shared: list[Tensor], autocast: AbstractContextManager[object]
) -> int:
    """Return the bytes that are there after a forward pass of which nothing is kept but its output."""
    dropping = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing)
    with Live(shared) as live, autocast:
        with dropping:
            output = forward()
        return live.bytes - output.untyped_storage().nbytes()


def _width(tower: Tower, config: PaliGemmaConfig) -> int:
    part = config.vision_config if tower == Tower.vision_tower else config.text_config
    return int(part.hidden_size)
