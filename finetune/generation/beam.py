"""big_vision's beam search over PaliGemma's cache."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def search_beams(
    model: Any, batch: Mapping[str, Tensor], *, beams: int, steps: int, end: int, pad: int
) -> tuple[Tensor, Tensor]:
    """Return the ended hypothesis of the highest summed log-probability, without length normalisation.

    At each step every live beam may end; the best that ended so far is kept, and the beams live on
    without EOS. So an answer that ran out of tokens never beats one that ended, as it may in
    transformers' own beam search.

    Args:
        model: a PaliGemma, with an adapter or without.
        batch: prompts, padded on the left, and their images.
        beams: hypotheses that live at once, of each prompt.
        steps: most tokens of an answer, EOS among them.
        end: id of EOS.
        pad: id behind it.

    Returns:
        Tokens and their probabilities: (B, steps or fewer) each.

    Source: google-research/big_vision, trainers/proj/paligemma/predict_fns.py (`_beam_decode`).
    """
    size, device = batch["input_ids"].shape[0], batch["input_ids"].device
    output = model(**batch, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(beams)
    mask = batch["attention_mask"].repeat_interleave(beams, 0)
    logits = output.logits[:, -1].repeat_interleave(beams, 0)
    tokens = torch.full((size, beams, steps), pad, device=device)
    chosen = torch.zeros((size, beams, steps), device=device)
    # One beam of each prompt at first: the others would be the same.
    live = torch.full((size, beams), -torch.inf, device=device)
    live[:, 0] = 0
    best: tuple[Tensor, ...] = (live.new_full((size,), -torch.inf), tokens[:, 0], chosen[:, 0])
    for step in range(steps):
        scores = logits.float().log_softmax(-1).view(size, beams, -1)
        ended = _end(live, tokens, chosen, scores[..., end], step, end)
        better = ended[0] > best[0]
        best = tuple(
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(ended, best, strict=True)
        )
        scores[..., end] = -torch.inf
        live, index = (live[..., None] + scores).flatten(1).topk(beams)
        parent, token = index // scores.shape[-1], index % scores.shape[-1]
        tokens, chosen = (_select(table, parent) for table in (tokens, chosen))
        tokens[..., step], chosen[..., step] = token, scores.flatten(1).gather(1, index)
        if step + 1 == steps or bool((live[:, 0] < best[0]).all()):
            break
        cache.reorder_cache((parent + beams * torch.arange(size, device=device)[:, None]).flatten())
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = model(
            input_ids=token.view(-1, 1),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return best[1][:, : step + 1], best[2][:, : step + 1].exp()


def _end(
    live: Tensor, tokens: Tensor, chosen: Tensor, scores: Tensor, step: int, end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """End every beam here, and return the likeliest of each prompt.

    Args:
        live: summed log-probabilities of the beams: (B, beams).
        tokens: (B, beams, steps).
        chosen: their log-probabilities: (B, beams, steps).
        scores: log-probability of EOS in each beam: (B, beams).
        step: place of EOS.
        end: id of EOS.

    Returns:
        Its sum (B,), tokens (B, steps) and their log-probabilities (B, steps).
    """
    total, which = (live + scores).max(1)
    ended, ended_chosen = (_select(table, which[:, None])[:, 0] for table in (tokens, chosen))
    ended[:, step] = end
    ended_chosen[:, step] = scores.gather(1, which[:, None])[:, 0]
    return total, ended, ended_chosen


def _select(table: Tensor, places: Tensor) -> Tensor:
    """Return a copy of the beams at the places: (B, n) of (B, beams, steps) gives (B, n, steps)."""
    return table.gather(1, places[..., None].expand(-1, -1, table.shape[2]))
