"""The loss over suffix and EOS.

Source: big_vision `trainers/proj/paligemma/train.py`, lines 343-372: each example's mean over its
supervised tokens, then the mean over the examples.
"""

import torch
from torch import Tensor
from torch.nn import functional

from finetune.example import IGNORED


def supervised_positions(labels: Tensor) -> Tensor:
    """Return where a logit is needed: one position before each label.

    Args:
        labels: (B, T) int64, `IGNORED` where nothing is learnt.

    Returns:
        (B, T) bool for the model's `logits_to_keep`; the last column is False.
    """
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != IGNORED
    return keep


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
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, *, mean: bool = True
) -> Tensor:
    """Return the loss of each example: (B,), nats; 0 for one without a label.

    Args:
        logits: (N, V) at `supervised_positions(labels)`, in row-major order.
        labels: (B, T).
        label_smoothing: see `compute_token_losses`.
        mean: over the example's tokens; otherwise their sum.
    """
    keep = labels[:, 1:] != IGNORED
    losses = compute_token_losses(logits, labels[:, 1:][keep], label_smoothing)
    totals = losses.new_zeros(len(labels)).index_add(0, keep.nonzero()[:, 0], losses)
    return totals / keep.sum(1).clamp(min=1) if mean else totals


def count_items(labels: Tensor, average: str) -> Tensor:
    """Return what the summed loss is divided by: examples, or supervised tokens.

    Args:
        labels: (B, T).
        average: `example` or `token`.
    """
    if average == "example":
        return torch.tensor(len(labels), device=labels.device)
    return (labels[:, 1:] != IGNORED).sum()
