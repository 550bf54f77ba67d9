"""big_vision's beam search over PaliGemma's cache."""

import torch
from torch import Tensor, nn

from finetune.example import Prompts
from finetune.generation.limits import Limits
from finetune.model.forward import prefill, step


def search_beams(
    model: nn.Module,
    prompts: Prompts,
    *,
    beams: int,
    steps: int,
    end: int,
    pad: int,
    limits: Limits | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the ended hypothesis of the highest summed log-probability, without length normalization.

    At each step every live beam may end; the best ended one is kept, and the beams continue without EOS. So
    an answer that ran out of tokens never beats one that ended, as it may in transformers' beam search.

    Args:
        model: a PaliGemma, with an adapter or without.
        prompts: on the model's device.
        beams: live hypotheses of each prompt.
        steps: most tokens of an answer, including EOS.
        end: id of EOS.
        pad: id after it.
        limits: of all beams, those of a prompt next to each other; None: every token may follow.

    Returns:
        Tokens and their probabilities: (B, steps or fewer) each.

    Source: google-research/big_vision, trainers/proj/paligemma/predict_fns.py (`_beam_decode`).
    """
    size, device = prompts["input_ids"].shape[0], prompts["input_ids"].device
    logits, cache = prefill(model, prompts)
    cache.batch_repeat_interleave(beams)
    mask = prompts["attention_mask"].repeat_interleave(beams, 0)
    logits = logits.repeat_interleave(beams, 0)
    tokens = torch.full((size, beams, steps), pad, device=device)
    chosen = torch.zeros((size, beams, steps), device=device)
    # One beam of each prompt at first: the others would be the same.
    live = torch.full((size, beams), -torch.inf, device=device)
    live[:, 0] = 0
    best: tuple[Tensor, ...] = (live.new_full((size,), -torch.inf), tokens[:, 0], chosen[:, 0])
    for place in range(steps):
        scores = logits.float().log_softmax(-1)
        scores = (scores if limits is None else limits.mask(scores)).view(size, beams, -1)
        ended = _end(live, tokens, chosen, scores[..., end], place, end)
        best = _keep_better(ended, best)
        scores[..., end] = -torch.inf
        live, index = (live[..., None] + scores).flatten(1).topk(beams)
        parent, token = index // scores.shape[-1], index % scores.shape[-1]
        tokens, chosen = (_select(table, parent) for table in (tokens, chosen))
        tokens[..., place], chosen[..., place] = token, scores.flatten(1).gather(1, index)
        if place + 1 == steps or bool((live[:, 0] < best[0]).all()):
            break
        rows = (parent + beams * torch.arange(size, device=device)[:, None]).flatten()
        cache.reorder_cache(rows)
        if limits is not None:
            limits.advance(token.flatten().tolist(), rows.tolist())
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = step(model, token.flatten(), mask, cache)
    return best[1][:, : place + 1], best[2][:, : place + 1].exp()


def _end(
    live: Tensor, tokens: Tensor, chosen: Tensor, scores: Tensor, place: int, end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """End every beam at this place, and return the likeliest of each prompt.

    Args:
        live: summed log-probabilities of the beams: (B, beams).
        tokens: (B, beams, steps).
        chosen: their log-probabilities: (B, beams, steps).
        scores: log-probability of EOS in each beam: (B, beams).
        place: of EOS.
        end: id of EOS.

    Returns:
        Its sum (B,), tokens (B, steps) and their log-probabilities (B, steps).
    """
    total, which = (live + scores).max(1)
    ended, ended_chosen = (_select(table, which[:, None])[:, 0] for table in (tokens, chosen))
    ended[:, place] = end
    ended_chosen[:, place] = scores.gather(1, which[:, None])[:, 0]
    return total, ended, ended_chosen


def _keep_better(ended: tuple[Tensor, ...], best: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return for each prompt the hypothesis of the higher sum: its sum, tokens and log-probabilities."""
    better = ended[0] > best[0]
    return tuple(
        torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in zip(ended, best, strict=True)
    )


def _select(table: Tensor, places: Tensor) -> Tensor:
    """Return a copy of the beams at the places: (B, n) of (B, beams, steps) gives (B, n, steps)."""
    return table.gather(1, places[..., None].expand(-1, -1, table.shape[2]))
