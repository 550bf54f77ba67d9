"""The loss over suffix and EOS.

Source: big_vision `trainers/proj/paligemma/train.py`, lines 343-372: each example's mean over its
supervised tokens, then the mean over the examples.
"""

import torch
from torch import Tensor
from torch.nn import functional

from finetune.example import Batch


def compute_token_losses(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each position, in nats.

    Args:
        logits: (N, V) at the supervised positions.
        targets: (N,) int64.
        label_smoothing: e; the target keeps 1 - e, every other entry gets e / (V - 1).
    """
    vocabulary = logits.shape[-1]
    # torch spreads e over all V entries, the target among them.
    torch_smoothing = label_smoothing * vocabulary / (vocabulary - 1)
    return functional.cross_entropy(
        logits.float(), targets, reduction="none", label_smoothing=torch_smoothing
    )


def compute_example_losses(
    logits: Tensor,
    targets: Tensor,
    segments: Tensor,
    examples: int,
    label_smoothing: float = 0.0,
    *,
    mean: bool = True,
) -> Tensor:
    """Return the loss of each example: (examples,), nats; 0 for one without a supervised token.

    Args:
        logits: (N, V) at the supervised positions.
        targets: (N,) int64.
        segments: (N,) int64, the example that each of them belongs to.
        examples: number of examples.
        label_smoothing: see `compute_token_losses`.
        mean: over the example's tokens; otherwise their sum.
    """
    losses = compute_token_losses(logits, targets, label_smoothing)
    totals = losses.new_zeros(examples).index_add(0, segments, losses)
    if not mean:
        return totals
    counts = segments.new_zeros(examples).index_add(0, segments, torch.ones_like(segments))
    return totals / counts.clamp(min=1)


def count_items(batch: Batch, average: str) -> int:
    """Return what the summed loss is divided by: the number of examples, or of supervised tokens."""
    return len(batch["ids"] if average == "example" else batch["targets"])
