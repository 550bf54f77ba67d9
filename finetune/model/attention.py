"""Attention of a prefix LM as two calls, without a mask over all pairs of positions.

    queries                       see
    image and prefix              image and prefix of their row: no mask at all
    last token of the prefix, and
    all after it                  what a small mask says, (B, 1, few, T)

This is exact, with suffixes that share a prefix too. What it saves is the mask: flash kernels take none,
and other kernels read one number of it for each pair of positions. Heads that share a key are computed as
more queries of one head, so that keys are not repeated.

Only where a model trains: evaluation and generation use the kernel that the model was loaded with, so that
a score does not depend on which kernel was the fastest on the machine that trained.

`split_sdpa` computes both calls by scaled_dot_product_attention, and its other spellings by one of torch's
backends; `split_eager` by matrix products, which have Gemma 2's soft-cap, and are the fastest on CPUs with
bfloat16 products; `flex` is one compiled kernel for the whole mask, with the soft-cap.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.models.gemma.modeling_gemma import eager_attention_forward as eager_attention
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as eager_attention_2

from finetune.example import Batch


class PrefixRows(NamedTuple):
    """Which keys the queries of a batch see; of packed rows, those of one row."""

    start: int
    """The first column with a mask. Queries before it see the prefix of their row, all of it."""
    lengths: tuple[int, ...]
    """Tokens before the first suffix of each row; a single number where all rows have the same."""
    mask: Tensor
    """(B, 1, T - start, T) bool: what the queries from `start` on see."""


Part = Callable[[Tensor, Tensor, Tensor, Tensor | None, float, float | None], Tensor]
"""From queries (B, heads, L, size), keys and values (B, key heads, S, size), a mask (B, 1, L, S) or None,
the scaling and the soft-cap or None to (B, L, heads, size)."""


def attention_inputs(language_model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Return what a training batch's attention needs besides the tensors that every batch has.

    Args:
        language_model: of a PaliGemma.
        batch: on the model's device.
    """
    config: Any = language_model.config
    kernel: str = config._attn_implementation
    positions = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
    if attends_without_mask(language_model, batch):
        prefix = describe_prefixes(batch)
        # Of the other kernels, none reads it: it keeps transformers from building one.
        mask = build_block_mask(batch) if kernel == "flex" else prefix[0].mask
        return {**positions, "attention_mask": mask, "prefix": prefix}
    if "blocks" not in batch:
        return {}
    visible = mask_columns(batch, 0)
    if kernel == "eager" or (kernel in KERNELS and is_capped(config)):
        visible = as_bias(visible, language_model.get_input_embeddings().weight.dtype)
    return {**positions, "attention_mask": visible}


def attends_without_mask(language_model: PreTrainedModel, batch: Batch) -> bool:
    """Return whether the attention of a batch is computed by one of `KERNELS`, which only training does."""
    length = max(batch["lengths"]) if is_packed(batch) else batch["input_ids"].shape[1]
    return language_model.training and explain_mask(language_model, length) is None


def explain_mask(language_model: PreTrainedModel, length: int) -> str | None:
    """Return why training on rows of some length needs a dense mask; None: it does not."""
    config: Any = language_model.config
    if config._attn_implementation not in KERNELS:
        return f"attention is computed with a dense mask ({config._attn_implementation})"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < length:
        return f"rows of {length} tokens are longer than the window of attention, {window}"
    return None


def describe_prefixes(batch: Batch) -> tuple[PrefixRows, ...]:
    """Return which keys the queries of a batch see: all its rows at once, or packed rows one by one."""
    blocks, lengths = _blocks(batch), batch["prefix_lengths"]
    if not is_packed(batch):
        return (_describe_rows(blocks, lengths),)
    parts = torch.split(blocks, batch["lengths"], dim=1)
    return tuple(_describe_rows(part, [length]) for part, length in zip(parts, lengths, strict=True))


def _describe_rows(blocks: Tensor, lengths: list[int]) -> PrefixRows:
    # With the last token of the shortest prefix, from which the first one of a suffix is predicted: the
    # last layer needs no other rows.
    start = min(lengths) - 1
    distinct = lengths[:1] if len(set(lengths)) == 1 else lengths
    return PrefixRows(start, tuple(distinct), _mask_columns(blocks, start))


def is_packed(batch: Batch) -> bool:
    """Return whether the rows of a batch are one after another in a single one."""
    return len(batch["prefix_lengths"]) > len(batch["input_ids"])


def _blocks(batch: Batch) -> Tensor:
    """Return (B, T): 0 for image and prefix, and another number for each suffix of a row."""
    return batch["blocks"] if "blocks" in batch else batch["token_type_ids"]


def mask_columns(batch: Batch, start: int) -> Tensor:
    """Return what the columns from `start` on see: (B, 1, T - start, T) bool; rows are not packed."""
    return _mask_columns(_blocks(batch), start)


def _mask_columns(blocks: Tensor, start: int) -> Tensor:
    columns = torch.arange(blocks.shape[1], device=blocks.device)
    same = (blocks[:, start:, None] == blocks[:, None]) & (columns[start:, None] >= columns)
    return (same | (blocks == 0)[:, None])[:, None]


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what transformers' `eager` attention adds to the scores in place of a bool mask."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def build_block_mask(batch: Batch) -> Any:
    """Return the same for all columns, as the blocks of flex attention."""
    blocks = _blocks(batch)
    rows, length = blocks.shape
    device = blocks.device
    sizes = torch.tensor(batch["lengths"] if is_packed(batch) else [length], device=device)
    owner = torch.arange(len(sizes), device=device).repeat_interleave(sizes, output_size=length)

    def is_visible(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = (blocks[row, query] == blocks[row, key]) & (query >= key)
        return (same | (blocks[row, key] == 0)) & (owner[query] == owner[key])

    # Compiled, it never builds the mask for all pairs; without a GPU there is no compiler to rely on.
    return create_block_mask(
        is_visible, rows, None, length, length, device=device, _compile=device.type == "cuda"
    )


def attend_by_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
    *,
    backend: SDPBackend | None = None,
) -> Tensor:
    """Compute a part by torch's kernels, which know no soft-cap; see `Part`."""
    assert softcap is None, "`check_kernel` has refused it"
    groups = query.shape[1] // key.shape[1]
    if mask is not None:
        mask = mask.repeat_interleave(groups, dim=2)
        output = scaled_dot_product_attention(_fold(query, groups), key, value, mask, scale=scaling)
        return _unfold(output, groups)
    if not query.is_cuda or backend == SDPBackend.EFFICIENT_ATTENTION:  # which has no grouped queries
        return _unfold(
            scaled_dot_product_attention(_fold(query, groups), key, value, scale=scaling), groups
        )
    grouped = partial(scaled_dot_product_attention, scale=scaling, enable_gqa=groups > 1)
    if backend is None:
        return grouped(query, key, value).transpose(1, 2)
    with sdpa_kernel(backend):
        return grouped(query, key, value).transpose(1, 2)


def attend_by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Compute a part by two matrix products; see `Part`."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = _as_autocast(query, key, value)
    # Autocast would compute the softmax in float32 and keep that: it is computed so inside in any case.
    with torch.autocast(query.device.type, enabled=False):
        # Gemma's scaling is a power of two, so that nothing is rounded here.
        scores = (_fold(query, groups) * scaling) @ key.transpose(2, 3)
        if softcap is not None:
            scores = (scores / softcap).tanh() * softcap
        if mask is not None:
            rows, heads, folded, length = scores.shape
            scores = scores.view(rows, heads, folded // groups, groups, length)
            scores = scores.masked_fill(~mask[:, :, :, None], torch.finfo(scores.dtype).min).flatten(2, 3)
        return _unfold(scores.softmax(-1) @ value, groups)


def _as_autocast(*values: Tensor) -> list[Tensor]:
    """Convert values as autocast, if it is enabled, does for a matrix product."""
    device = values[0].device.type
    enabled = torch.is_autocast_enabled(device)
    return [value.to(torch.get_autocast_dtype(device)) if enabled else value for value in values]


def _fold(query: Tensor, groups: int) -> Tensor:
    """(B, heads, L, size) to (B, key heads, L * groups, size): heads of one key as more of its queries."""
    rows, heads, length, size = query.shape
    return query.view(rows, heads // groups, groups, length, size).transpose(2, 3).flatten(2, 3)


def _unfold(output: Tensor, groups: int) -> Tensor:
    """(B, key heads, L * groups, size) to (B, L, heads, size)."""
    rows, heads, folded, size = output.shape
    return output.view(rows, heads, folded // groups, groups, size).transpose(1, 2).flatten(2, 3)


PARTS: dict[str, Part] = {
    "split_sdpa": attend_by_sdpa,
    "split_fa2": partial(attend_by_sdpa, backend=SDPBackend.FLASH_ATTENTION),
    "split_cudnn": partial(attend_by_sdpa, backend=SDPBackend.CUDNN_ATTENTION),
    "split_efficient": partial(attend_by_sdpa, backend=SDPBackend.EFFICIENT_ATTENTION),
    "split_eager": attend_by_products,
    "flex": attend_by_products,
}
"""Kernel -> how a part is computed; with `flex`, the few rows of the last layer."""

KERNELS = tuple(PARTS)
"""Names of `model.attention` that need no mask over all pairs of positions."""


def _attend(
    kernel: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    scaling: float,
    prefix: tuple[PrefixRows, ...] = (),
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' functions do: (B, L, heads, size), and no weights."""
    if not prefix:
        if softcap is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, **kwargs
            )
        if isinstance(attention_mask, Tensor) and attention_mask.dtype == torch.bool:
            return attend_by_products(query, key, value, attention_mask, scaling, softcap), None
        return eager_attention_2(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, **kwargs
        )
    if kernel == "flex":
        parts = _as_autocast(query, key, value)
        return flex_attention_forward(module, *parts, attention_mask, scaling=scaling, softcap=softcap)
    attend = partial(_attend_rows, PARTS[kernel], scaling=scaling, softcap=softcap)
    sizes = [rows.mask.shape[-1] for rows in prefix]
    packed = zip(
        *(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), prefix, strict=True
    )
    outputs = [attend(*parts) for parts in packed]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), None


def _attend_rows(
    part: Part,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: PrefixRows,
    *,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Attend in the rows of a batch, or in one packed row: (B, L, heads, size)."""
    start, lengths, mask = prefix
    before, after = torch.split(query, [start, query.shape[2] - start], dim=2)  # its gradient is one copy
    rows = [len(query)] if len(lengths) == 1 else [1] * len(lengths)
    outputs = [
        part(some, keys[:, :, :length], values[:, :, :length], None, scaling, softcap)
        for some, keys, values, length in zip(
            *(torch.split(tensor, rows) for tensor in (before, key, value)), lengths, strict=True
        )
    ]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return torch.cat([output, part(after, key, value, mask, scaling, softcap)], dim=1)


def _build_dense_mask(*args: Any, config: Any, **kwargs: Any) -> Tensor | None:
    """Build the mask of evaluation and generation, which the model computes as it was loaded."""
    return (eager_mask if is_capped(config) else sdpa_mask)(*args, config=config, **kwargs)


def find_function(attention: Any, kernel: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return what transformers calls for a kernel in a layer's attention: by name, `eager` by backbone."""
    eager = eager_attention_2 if hasattr(attention, "attn_logit_softcapping") else eager_attention
    function: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
        kernel, eager
    )
    return function


def is_capped(config: Any) -> bool:
    """Whether attention scores have a soft-cap, which `sdpa` does not compute."""
    return getattr(config, "attn_logit_softcapping", None) is not None


for _kernel in KERNELS:
    AttentionInterface.register(_kernel, partial(_attend, _kernel))
    AttentionMaskInterface.register(_kernel, _build_dense_mask)
