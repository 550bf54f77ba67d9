"""The last decoder layer, computed where a token is supervised and nowhere else.

What it returns at other positions is never used: their logits are not needed, and no layer follows. Keys
and values are needed at all positions; queries, the output projection, norms and the MLP are not. This
saves nearly the whole layer (an 18th of Gemma's work, a 26th of Gemma 2's), and `lm_head` is given exactly
the supervised rows, without a boolean mask, for which a GPU would have to wait.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.gemma.modeling_gemma import rotate_half

from finetune.model.attention import find_function
from finetune.model.towers import find_tower

INSTALLED = "_computes_supervised_rows"
"""Attribute of a changed layer: whether it computes these rows only."""


def compute_supervised_rows(model: nn.Module, *, everywhere: bool | None = None) -> PreTrainedModel:
    """Let the last decoder layer take `supervised_columns` and `supervised_places`; once for each model.

    With them, the language model returns hidden states of shape (1, N, width) in place of (B, T, width);
    without them, as in generation, it works as before. Parameters and their names stay.

    Args:
        model: a PaliGemma, with an adapter or without, wrapped for distribution or not; changed in place.
        everywhere: compute the last layer at all positions all the same, and take these rows of it; None
            leaves it as it is.

    Returns:
        Its language model.
    """
    language_model = find_tower(model, "language_model")
    last = language_model.layers[-1]
    if not hasattr(last, INSTALLED):
        last.forward = partial(_run_layer, last, last.forward)
        last.self_attn.forward = partial(_attend, last.self_attn, last.self_attn.forward)
        setattr(last, INSTALLED, True)
    if everywhere is not None:
        setattr(last, INSTALLED, not everywhere)
    return language_model


def computes_supervised_rows(layer: nn.Module) -> bool:
    """Return whether a layer is computed at supervised positions only, where a batch names them."""
    return bool(getattr(layer, INSTALLED, False))


def _run_layer(
    layer: Any,
    plain: Callable[..., Tensor],
    hidden_states: Tensor,
    *args: Any,
    supervised_columns: Tensor | None = None,
    supervised_places: Tensor | None = None,
    attention_mask: Any = None,
    **kwargs: Any,
) -> Tensor:
    """Return (1, N, width) where columns and places are given; otherwise what `plain`, its method, does."""
    if supervised_columns is None or supervised_places is None:
        return plain(hidden_states, *args, attention_mask=attention_mask, **kwargs)
    # Without any mask, which rows a kernel takes for causal depends on how many there are.
    if not getattr(layer, INSTALLED) or (attention_mask is None and "prefix" not in kwargs):
        full = plain(hidden_states, *args, attention_mask=attention_mask, **kwargs)
        return take(take_columns(full, supervised_columns), supervised_places)
    # Flex attention has blocks, from which no rows can be taken.
    masks = [rows.mask for rows in kwargs.pop("prefix", ())] or [attention_mask]
    residual = take(take_columns(hidden_states, supervised_columns), supervised_places)
    branch, _ = layer.self_attn(
        layer.input_layernorm(hidden_states),
        *args,
        attention_mask=masks,
        supervised_columns=supervised_columns,
        supervised_places=supervised_places,
        **kwargs,
    )
    return add_branch(layer, residual, branch)


def add_branch(layer: Any, residual: Tensor, branch: Tensor) -> Tensor:
    """Return what a layer makes of its input and of what its attention made of it: (rows, T, width)."""
    if not hasattr(layer, "post_feedforward_layernorm"):  # Gemma
        residual = residual + branch
        return residual + layer.mlp(layer.post_attention_layernorm(residual))
    residual = residual + layer.post_attention_layernorm(branch)
    branch = layer.mlp(layer.pre_feedforward_layernorm(residual))
    return residual + layer.post_feedforward_layernorm(branch)


def _attend(
    attention: Any,
    plain: Callable[..., tuple[Tensor, Tensor | None]],
    hidden_states: Tensor,
    *args: Any,
    supervised_columns: Tensor | None = None,
    supervised_places: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend from the supervised columns to all, with a mask for each of the packed rows: (1, N, width)."""
    if supervised_columns is None or supervised_places is None:
        return plain(hidden_states, *args, **kwargs)
    masks, (cos, sin) = kwargs.pop("attention_mask"), kwargs.pop("position_embeddings")
    rows = take_columns(hidden_states, supervised_columns)

    cos, sin = (part.expand(len(rows), -1, -1) for part in (cos, sin))
    query = rotate(
        split_heads(attention, attention.q_proj(rows)),
        take_columns(cos, supervised_columns),
        take_columns(sin, supervised_columns),
    )
    key = rotate(split_heads(attention, attention.k_proj(hidden_states)), cos, sin)
    value = split_heads(attention, attention.v_proj(hidden_states))
    if hasattr(attention, "attn_logit_softcapping"):  # Gemma 2
        kwargs |= {"softcap": attention.attn_logit_softcapping, "sliding_window": attention.sliding_window}
    attend = find_function(attention, attention.config._attn_implementation)
    kwargs["dropout"] = attention.attention_dropout if attention.training else 0.0
    sizes, begin = [mask.shape[-1] for mask in masks], 0
    outputs: list[Any] = []
    parts = zip(
        *(tensor.chunk(len(masks), dim=-2) for tensor in (query, supervised_columns[..., None])),
        *(torch.split(tensor, sizes, dim=2) for tensor in (key, value)),
        masks,
        strict=True,
    )
    for queries, columns, keys, values, mask in parts:
        own = _take_mask(mask, columns[..., 0] - begin)
        outputs += attend(attention, queries, keys, values, own, scaling=attention.scaling, **kwargs)[:1]
        begin += mask.shape[-1]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return attention.o_proj(take(output.flatten(2), supervised_places)), None


def split_heads(attention: Any, projected: Tensor) -> Tensor:
    """Return (B, heads, T, size) of (B, T, heads * size)."""
    heads = projected.shape[-1] // attention.head_dim
    return projected.view(*projected.shape[:2], heads, attention.head_dim).transpose(1, 2)


def take_columns(values: Tensor, columns: Tensor) -> Tensor:
    """Return (B, R, width) of (B, T, width): row b at `columns[b]`."""
    return values.gather(1, columns[:, :, None].expand(-1, -1, values.shape[-1]))


def take(values: Tensor, places: Tensor) -> Tensor:
    """Return (1, N, width) of (B, R, width) at flat places."""
    return values.flatten(0, 1).index_select(0, places)[None]


def _take_mask(mask: Tensor, columns: Tensor) -> Tensor:
    """Return (B, 1, R, T) of a mask (B or 1, 1, L, T) of the last L columns."""
    mask = mask.expand(len(columns), -1, -1, -1)
    columns = columns - (mask.shape[-1] - mask.shape[-2])
    return mask.gather(2, columns[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1]))


def rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions: (B, heads, T, size) with (B, T, size)."""
    return (values * cos[:, None]) + (rotate_half(values) * sin[:, None])
