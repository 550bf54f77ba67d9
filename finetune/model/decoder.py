"""The language model, read token by token over a cache of its own.

What it computes is what transformers' forward pass does, without what generation has no use for: a prompt
sees all of itself, so that it needs no mask but for padding; the last layer is computed at its last token
only; and the heads that share keys and values are queries of one head, so that neither is copied for each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PaliGemmaForConditionalGeneration

from finetune.model.cache import Layer, RowCache
from finetune.model.last_layer import add_branch, rotate, split_heads, take_columns

Recall = Callable[[int, Tensor, Tensor], Layer]
"""From the number of a layer and its new keys and values to all that are seen."""


def find_base(model: nn.Module) -> PaliGemmaForConditionalGeneration:
    """Return the PaliGemma of a model, with its adapter or without."""
    return next(one for one in model.modules() if isinstance(one, PaliGemmaForConditionalGeneration))


class Decoder:
    """Reads prompts, and tokens after them.

    Args:
        model: a PaliGemma in evaluation mode, with an adapter or without.
    """

    def __init__(self, model: nn.Module) -> None:
        self._base = find_base(model)
        self._language = self._base.model.language_model

    def read_prompts(
        self, tokens: Tensor, lengths: Sequence[int], images: Tensor
    ) -> tuple[Tensor, RowCache]:
        """Read prompts.

        Args:
            tokens: (rows, T) int64, padded on the right.
            lengths: the tokens of each row.
            images: what takes the place of their image tokens: (images in order, tokens, width).

        Returns:
            Logits of the first token of each answer, (rows, V), and the cache.
        """
        is_image = tokens == self._base.config.image_token_id
        # The id may be beyond the vocabulary.
        embedded = self._language.embed_tokens(tokens.masked_fill(is_image, 0))
        embedded = embedded.masked_scatter(is_image[:, :, None], images.to(embedded.dtype))
        total, device = tokens.shape[1], tokens.device
        columns = torch.arange(total, device=device)
        ends = torch.tensor(lengths, device=device)
        mask = None if min(lengths) == total else (columns < ends[:, None])[:, None, None]
        layers: list[Layer] = []

        def keep(_: int, keys: Tensor, values: Tensor) -> Layer:
            layers.append((keys, values))
            return keys, values

        hidden = self._run(embedded, columns[None] + 1, keep, lambda _: mask, last=ends - 1)
        return self._score(hidden[:, 0]), RowCache(layers, lengths)

    def read_tokens(self, tokens: Tensor, cache: RowCache) -> Tensor:
        """Read one more token of each row.

        Args:
            tokens: (rows,) int64.
            cache: gets them.

        Returns:
            Logits of the next token: (rows, V).
        """
        cache.make_room()
        embedded = self._language.embed_tokens(tokens[:, None])
        hidden = self._run(embedded, cache.number(1), cache.write, cache.see_next)
        cache.advance()
        return self._score(hidden[:, 0])

    def score_suffixes(
        self, suffixes: Sequence[Sequence[int]], cache: RowCache, rows: Sequence[int]
    ) -> Tensor:
        """Return the logits after each token of texts that follow prompts: (tokens of all in order, V).

        Args:
            suffixes: ids of the texts.
            cache: of the prompts; stays as it is.
            rows: the prompt of each text.
        """
        chosen, count = cache.select(rows), max(map(len, suffixes))
        device = self._base.device
        # What follows the end of one changes nothing before it.
        padded = torch.tensor([[*ids, *[0] * (count - len(ids))] for ids in suffixes], device=device)
        embedded = self._language.embed_tokens(padded)
        hidden = self._run(
            embedded,
            chosen.number(count),
            chosen.follow,
            lambda window: chosen.see_following(count, window),
        )
        places = [row * count + place for row, ids in enumerate(suffixes) for place in range(len(ids))]
        return self._score(hidden.flatten(0, 1).index_select(0, torch.tensor(places, device=device)))

    def _run(
        self,
        hidden: Tensor,
        positions: Tensor,
        recall: Recall,
        see: Callable[[int | None], Tensor | None],
        *,
        last: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states after the last layer: (rows, T, width), or (rows, 1, width) with `last`.

        Args:
            hidden: (rows, T, width).
            positions: (rows or 1, T) int64.
            recall: called once for each layer.
            see: the mask for a sliding window, or for None, without one.
            last: (rows,) int64, the only column of each row that the last layer is computed at; None: all.
        """
        cos, sin = self._language.rotary_emb(hidden, positions)
        layers = self._language.layers
        windows = {getattr(layer.self_attn, "sliding_window", None) for layer in layers}
        masks = {window: see(window) for window in windows}
        for index, layer in enumerate(layers):
            attention = layer.self_attn
            normed = layer.input_layernorm(hidden)
            keys = rotate(split_heads(attention, attention.k_proj(normed)), cos, sin)
            keys, values = recall(index, keys, split_heads(attention, attention.v_proj(normed)))
            if last is not None and index == len(layers) - 1:
                cos, sin = (part.expand(len(hidden), -1, -1) for part in (cos, sin))
                hidden, normed, cos, sin = (
                    take_columns(part, last[:, None]) for part in (hidden, normed, cos, sin)
                )
            queries = rotate(split_heads(attention, attention.q_proj(normed)), cos, sin)
            mask = masks[getattr(attention, "sliding_window", None)]
            branch = attention.o_proj(attend(attention, queries, keys, values, mask))
            hidden = add_branch(layer, hidden, branch)
        return self._language.norm(hidden)

    def _score(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._base.lm_head(hidden)
        cap = getattr(self._base.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else (logits / cap).tanh() * cap


def attend(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attend from new tokens to all that they see: (rows, T, heads * size).

    Args:
        attention: the layer's.
        queries: (rows, heads, T, size).
        keys: (rows, fewer heads, S, size).
        values: as the keys.
        mask: (rows, 1, T or 1, S) bool; None: they see everything.
    """
    rows, heads, count, size = queries.shape
    groups = heads // keys.shape[1]
    folded = queries.reshape(rows, keys.shape[1], groups * count, size)
    if mask is not None and mask.shape[2] > 1:
        mask = mask.repeat(1, 1, groups, 1)
    cap, scale = getattr(attention, "attn_logit_softcapping", None), attention.scaling
    if cap is None:
        output = functional.scaled_dot_product_attention(folded, keys, values, mask, scale=scale)
    else:
        scores = torch.matmul(folded, keys.transpose(2, 3)) * scale
        scores = (scores / cap).tanh() * cap
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1, dtype=torch.float32).to(queries.dtype)
        output = torch.matmul(weights, values)
    return output.view(rows, heads, count, size).transpose(1, 2).reshape(rows, count, heads * size)
