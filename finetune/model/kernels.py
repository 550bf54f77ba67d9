"""Which attention kernel trains: the fastest one here that computes what the dense mask does.

No kernel is the fastest everywhere: on one GPU cuDNN's takes half the time of another, on the next one it
is slower; on CPUs matrix products in bfloat16 are two to three times as fast as torch's own kernel. So the
candidates are timed on the first batch's shapes, forward and backward of one layer, when a run starts.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.errors import UserError
from finetune.example import Batch
from finetune.model.attention import (
    KERNELS,
    as_bias,
    build_block_mask,
    describe_prefixes,
    find_function,
    is_capped,
    mask_columns,
)
from finetune.model.last_layer import compute_supervised_rows
from finetune.speed import Technique

OPTION = "model.attention"

_LEAST_WORK = 2e8
"""Floating-point operations of a row in a forward pass below which no kernel makes a difference."""

_MOST_WORK = 3e10
"""Of all rows that are timed on a CPU, so that the measurement takes about a second."""

_MOST_CHECKED = 512
"""Tokens on which kernels are compared: a wrong mask shows at any length."""

_MOST_SCORES = 2048
"""Tokens up to which `split_eager` is a candidate where another kernel keeps no scores for the backward
pass: they are a fifth of what a layer keeps at this length, and grow with its square."""

_MARGIN = 1.05
"""How much slower than the fastest a kernel may be that comes before it in the list."""

_SECONDS = 0.7
"""Of repeated timing."""


@dataclass(frozen=True)
class AttentionChoice:
    """The kernel that trains, for the log and `environment.json`."""

    kernel: str
    """A name of `KERNELS`, or `sdpa` or `eager` for the dense mask."""
    why: str
    """In one line."""
    milliseconds: dict[str, float] = field(default_factory=dict)
    """Measured kernels: forward and backward of one layer."""
    refused: dict[str, str] = field(default_factory=dict)
    """Candidates that cannot be used here, and why."""

    @property
    def technique(self) -> Technique:
        """The line of the log's table."""
        return Technique(OPTION, self.kernel in KERNELS, self.why)


class _Layer(NamedTuple):
    """One layer's attention on random queries, keys and values."""

    module: Any
    batch: Batch
    inputs: tuple[Tensor, Tensor, Tensor]
    """(B, heads, T, size) queries; (B, key heads, T, size) keys and values; they require gradients."""
    weights: Tensor
    """(B, T, heads, size): the gradient of the output."""

    def describe(self, kernel: str) -> dict[str, Any]:
        """Return the mask and what goes with it, which all layers of a step share."""
        if kernel in KERNELS:
            prefix = describe_prefixes(self.batch)
            mask = build_block_mask(self.batch) if kernel == "flex" else prefix[0].mask
            return {"attention_mask": mask, "prefix": prefix}
        mask = mask_columns(self.batch, 0)
        if kernel == "eager":
            mask = as_bias(mask, self.inputs[0].dtype)
        return {"attention_mask": mask}

    def differentiate(self, kernel: str, described: Mapping[str, Any]) -> list[Tensor]:
        """Return the output and the gradients of queries, keys and values: (B, heads, T, size) each."""
        attention = self.module
        arguments = {"scaling": attention.scaling, **described}
        if (cap := getattr(attention, "attn_logit_softcapping", None)) is not None:
            arguments["softcap"] = cap
        output = find_function(attention, kernel)(attention, *self.inputs, **arguments)[0]
        gradients = torch.autograd.grad(output, self.inputs, self.weights)
        return [output.detach().transpose(1, 2), *gradients]


def list_candidates(language_model: PreTrainedModel, length: int) -> tuple[str, ...]:
    """Return the kernels that may compute a model's attention on its device, the simplest first.

    Args:
        language_model: of a PaliGemma, on its device.
        length: tokens of a row.
    """
    on_gpu = language_model.device.type == "cuda"
    if is_capped(language_model.config):
        return ("split_eager", "flex") if on_gpu else ("split_eager",)
    products = ("split_eager",) if length <= _MOST_SCORES else ()
    backends = ("split_fa2", "split_cudnn", "split_efficient") if on_gpu else ()
    return ("split_sdpa", *products, *backends)


def assume_kernel(config: Any, length: int, asked: str = "auto", *, on_gpu: bool) -> str:
    """Return the kernel that an estimate counts, where none was measured.

    On a GPU the fastest one keeps no scores for the backward pass; on a CPU it is that of products.

    Args:
        config: of the language model.
        length: tokens of a row.
        asked: `model.attention`.
        on_gpu: whether the model trains on a GPU.
    """
    if asked != "auto":
        return asked
    if config.attention_dropout > 0 or _work(config, length) < _LEAST_WORK:
        return "eager" if is_capped(config) else "sdpa"
    if on_gpu:
        return "flex" if is_capped(config) else "split_sdpa"
    return "split_eager" if is_capped(config) or length <= _MOST_SCORES else "split_sdpa"


def _work(config: Any, length: int) -> float:
    """Return the floating-point operations of a row's attention in a forward pass of a layer."""
    return 4.0 * length**2 * config.num_attention_heads * config.head_dim


def choose_kernel(
    model: nn.Module,
    batch: Batch,
    half: torch.dtype | None,
    asked: str = "auto",
    kept: str | None = None,
) -> AttentionChoice:
    """Choose the kernel that trains a model; the model is not changed.

    Args:
        model: a PaliGemma, with an adapter or without, loaded with a dense kernel.
        batch: the first of the training, on the model's device.
        half: the autocast format.
        asked: `model.attention`.
        kept: the kernel of the run that is resumed; empty for one that recorded none.

    Raises:
        UserError: a kernel was asked for by name that cannot be used here.
    """
    language_model = compute_supervised_rows(model)
    config: Any = language_model.config
    dense: str = config._attn_implementation
    rows, length = batch["input_ids"].shape
    if asked not in ("auto", *KERNELS):
        return AttentionChoice(dense, f"by {OPTION}={asked}")
    if config.attention_dropout > 0:
        why = "attention dropout draws at each pair of positions"
        return _dense_unless_asked(asked, dense, why)
    candidates = list_candidates(language_model, length)
    if asked == "auto" and kept in (dense, ""):
        return AttentionChoice(dense, "the dense mask, as in the run that is resumed")
    work = _work(config, length)
    dtype = half or language_model.get_input_embeddings().weight.dtype
    named = asked if asked != "auto" else kept
    pair = build_layer(language_model, batch, min(rows, 2), dtype, _MOST_CHECKED)
    if named is not None:
        if (fault := find_faults(pair, [named], dense).get(named)) is None:
            whence = f"by {OPTION}={asked}" if asked != "auto" else "as in the run that is resumed"
            return AttentionChoice(named, f"{named}, {whence}")
        if asked != "auto":
            return _dense_unless_asked(asked, dense, fault)
    if work < _LEAST_WORK:
        return AttentionChoice(dense, "the dense mask: rows are too short for a kernel to matter")
    refused = find_faults(pair, candidates, dense)
    timed = (
        rows if language_model.device.type == "cuda" else max(1, min(rows, int(_MOST_WORK / work / 3.5)))
    )
    layer = build_layer(language_model, batch, timed, dtype, length)
    # Of equally fast ones the first; the dense mask of Gemma 2 keeps twice as much as `split_eager`.
    ordered = (dense, *candidates) if dense != "eager" else (*candidates[:1], dense, *candidates[1:])
    usable = [kernel for kernel in ordered if kernel not in refused]
    seconds = measure_kernels(layer, usable)
    fastest = min(seconds.values())
    kernel = next(name for name in usable if seconds.get(name, torch.inf) <= _MARGIN * fastest)
    milliseconds = {name: round(1000 * value, 2) for name, value in seconds.items()}
    return AttentionChoice(kernel, _describe(kernel, dense, milliseconds), milliseconds, refused)


def use_kernel(model: nn.Module, kernel: str) -> None:
    """Let a model's language model train with a kernel; see `attention.py`."""
    language_model = compute_supervised_rows(model)
    if kernel in KERNELS:
        language_model.set_attn_implementation(kernel)


def _dense_unless_asked(asked: str, dense: str, why: str) -> AttentionChoice:
    """Return the dense kernel.

    Raises:
        UserError: another one was asked for by name.
    """
    if asked != "auto":
        raise UserError(f"{OPTION}={asked} cannot be used here: {why}. Choose auto.")
    return AttentionChoice(dense, f"the dense mask: {why}")


def build_layer(
    language_model: PreTrainedModel, batch: Batch, rows: int, dtype: torch.dtype, most: int
) -> _Layer:
    """Return the attention of a layer on random inputs of a batch's shape.

    Args:
        language_model: of a PaliGemma, on its device.
        batch: on the same device.
        rows: how many of its rows.
        dtype: of queries, keys and values.
        most: how many tokens of a row, roughly; of longer ones, image tokens are left out.
    """
    module: Any = language_model.layers[0].self_attn
    config: Any = language_model.config
    device, shortest = language_model.device, min(batch["prefix_lengths"][:rows])
    cut = max(0, min(batch["input_ids"].shape[1] - most, shortest - 2)) // _ALIGNED * _ALIGNED
    length = batch["input_ids"].shape[1] - cut
    laid_out: Any = batch
    some: Any = {name: laid_out[name][:rows, cut:] for name in _LAID_OUT if name in laid_out}
    some["prefix_lengths"] = [tokens - cut for tokens in batch["prefix_lengths"][:rows]]
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(rows, *sizes, config.head_dim, generator=generator).to(device, dtype)

    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    inputs = (draw(heads, length), draw(key_heads, length), draw(key_heads, length))
    for part in inputs:
        part.requires_grad_()
    return _Layer(module, some, inputs, draw(length, heads))


_LAID_OUT = ("input_ids", "token_type_ids", "blocks")
"""What an attention reads of a batch: (B, T) each."""

_ALIGNED = 64
"""Kernels prefer lengths by their divisors, which leaving out a multiple of this many tokens keeps."""


def find_faults(layer: _Layer, kernels: Iterable[str], dense: str) -> dict[str, str]:
    """Return why kernels cannot be used: those that fail, or differ from the dense mask."""
    expected = layer.differentiate(dense, layer.describe(dense))
    faults: dict[str, str] = {}
    for kernel in kernels:
        if kernel == "flex" and not layer.inputs[0].is_cuda:
            faults[kernel] = "it has gradients on GPUs alone"
            continue
        try:
            computed = layer.differentiate(kernel, layer.describe(kernel))
        except (RuntimeError, ValueError, AssertionError, ImportError, KeyError) as error:
            faults[kernel] = " ".join(str(error).split())[:200] or type(error).__name__
            continue
        # At the worst position, beyond rounding: where a key too many or too few is seen, it is far more.
        tolerance = max(4 * torch.finfo(expected[0].dtype).eps, 1e-4)
        for name, before, after in zip(("output", "dQ", "dK", "dV"), expected, computed, strict=True):
            size = before.float().norm(dim=-1)
            worst = ((after.float() - before.float()).norm(dim=-1) / (size + size.mean())).max().item()
            if not worst <= tolerance:  # NaN too
                faults[kernel] = f"its {name} differs from that of the dense mask by {worst:.1e}"
    return faults


def measure_kernels(layer: _Layer, kernels: list[str]) -> dict[str, float]:
    """Return the shortest time of forward and backward: kernel -> seconds; without those that fail."""
    seconds: dict[str, float] = {}
    failed: set[str] = set()
    described = {kernel: layer.describe(kernel) for kernel in kernels}
    began = time.monotonic()
    # The first turn on a GPU, where kernels are compiled and chosen for these shapes, does not count.
    turns = range(-1 if layer.inputs[0].is_cuda else 0, 3)
    for turn in turns:
        if turn > 0 and time.monotonic() - began > _SECONDS:
            break
        for kernel in kernels:
            if kernel in failed:
                continue
            try:
                taken = _time(layer, kernel, described[kernel])
            except RuntimeError:  # out of memory
                failed.add(kernel)
                continue
            if turn >= 0:
                seconds[kernel] = min(taken, seconds.get(kernel, torch.inf))
    return seconds


def _time(layer: _Layer, kernel: str, described: Mapping[str, Any]) -> float:
    device = layer.inputs[0].device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    layer.differentiate(kernel, described)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _describe(kernel: str, dense: str, milliseconds: Mapping[str, float]) -> str:
    """Say which kernel was chosen and what each took."""
    others = ", ".join(
        f"{'dense mask' if name == dense else name} {taken:g}"
        for name, taken in sorted(milliseconds.items(), key=lambda item: item[1])
    )
    chosen = "the dense mask" if kernel == dense else kernel
    return f"{chosen}; ms for a layer, forward and backward: {others}"
