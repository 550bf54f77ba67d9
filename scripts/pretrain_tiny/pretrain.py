"""Pre-trains the tiny PaliGemma that the package ships, on pictures drawn by this folder."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from architecture import LOC_TOKENS, build_tiny_config, build_tiny_processor, build_tiny_tokenizer
from batches import Batch, DrawnBatches, Sequencer, answer_loss
from measure import measure_base
from torch.utils.data import DataLoader
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PaliGemmaForConditionalGeneration,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune.model.load import TINY_BASE

_WARM_UP = 100
_ATTENTION = "sdpa_float32"


def _float32_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in float32: the backward pass of the bfloat16 kernel is four times slower on a CPU.

    Args:
        module: The attention layer.
        query: Queries.
        key: Keys.
        value: Values.
        attention_mask: The mask, or None.
        **kwargs: What the layer passes on.

    Returns:
        The attended values, and no weights.
    """
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast("cpu", enabled=False):
        attended, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return attended, None


def _waves(positions: torch.Tensor, periods: torch.Tensor) -> torch.Tensor:
    """Describe positions by sines and cosines.

    Args:
        positions: Positions, shape (n,).
        periods: Wave lengths, shape (k,).

    Returns:
        Shape (n, 2k), variance one half in each column.
    """
    angles = 2 * math.pi * positions[:, None] / periods[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@torch.no_grad()
def build_model(seed: int) -> tuple[PaliGemmaForConditionalGeneration, Sequencer, Any]:
    """Build the model with random weights that already know which places are neighbours.

    Neighbouring locations start with similar embeddings, and neighbouring patches with similar
    positions: a short training would otherwise be spent on finding the order of 1,024 tokens.

    Args:
        seed: The seed of the weights.

    Returns:
        The model, what builds its sequences, and its processor.
    """
    torch.manual_seed(seed)
    tokenizer = build_tiny_tokenizer()
    processor = build_tiny_processor(tokenizer)
    model = PaliGemmaForConditionalGeneration(build_tiny_config(tokenizer=tokenizer))
    table = model.get_input_embeddings().weight
    width = table.shape[1]
    first = tokenizer.convert_tokens_to_ids(LOC_TOKENS[0])
    periods = torch.logspace(math.log10(4096), math.log10(64), width // 2)
    spread = float(table.std())
    table[first : first + len(LOC_TOKENS)] = (
        _waves(torch.arange(len(LOC_TOKENS)).float(), periods) * spread * math.sqrt(2)
    )
    places = model.model.vision_tower.embeddings.position_embedding.weight
    side = math.isqrt(places.shape[0])
    row, column = torch.arange(places.shape[0]) // side, torch.arange(places.shape[0]) % side
    periods = torch.logspace(math.log10(4 * side), math.log10(2.5), places.shape[1] // 4)
    places.copy_(0.2 * torch.cat([_waves(row, periods), _waves(column, periods)], dim=-1))
    return model, Sequencer(processor), processor


def _rate(step: int, steps: int) -> float:
    """Give the learning rate's factor: a linear warm-up, then a cosine to zero.

    Args:
        step: The step, from 0.
        steps: The number of steps.

    Returns:
        A factor in (0, 1].
    """
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - _WARM_UP) / max(1, steps - _WARM_UP)))


def _optimizer(model: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
    """Build AdamW, with weight decay on matrices only.

    Args:
        model: The model.
        rate: The peak learning rate.

    Returns:
        The optimiser.
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim <= 1 or "embed" in n]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def train(model: PaliGemmaForConditionalGeneration, sequencer: Sequencer, args: argparse.Namespace) -> None:
    """Train the model on drawn pictures.

    Args:
        model: The model, in float32.
        sequencer: Builds its sequences.
        args: The command line's settings.
    """
    data = DrawnBatches(sequencer, args.steps, args.batch_size, args.seed)
    loader: DataLoader[list[Batch]] = DataLoader(data, batch_size=None, num_workers=2, prefetch_factor=8)
    optimizer = _optimizer(model, args.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, args.steps))
    first_loc = sequencer.tokenizer.convert_tokens_to_ids(LOC_TOKENS[0])
    model.set_attn_implementation(_ATTENTION)
    model.train()
    began, losses = time.time(), []
    for step, halves in enumerate(loader, 1):
        total = 0.0
        for half in halves:
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss(model, half, first_loc) / len(halves)
            torch.autograd.backward(loss)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        if step % 100 == 0:
            mean, spent = float(np.mean(losses[-100:])), time.time() - began
            print(f"step {step} loss {mean:.4f} seconds {spent:.0f}", flush=True)
        if step % args.measure_every == 0 or step == args.steps:
            print(f"step {step}", json.dumps(measure_base(model, sequencer, 200)), flush=True)
            model.train()
    model.set_attn_implementation("sdpa")


def main() -> None:
    """Pre-train, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--out", type=Path, default=TINY_BASE)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure-every", type=int, default=1400)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    AttentionInterface.register(_ATTENTION, _float32_attention)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    model, sequencer, processor = build_model(args.seed)
    train(model, sequencer, args)
    model.to(torch.bfloat16).eval().save_pretrained(args.out)
    processor.save_pretrained(args.out)
    (args.out / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
