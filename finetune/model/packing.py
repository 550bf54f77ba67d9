r"""A batch without its padding: its rows one after another, in a single one.

    padded    <image> ... \n cat EOS            packed    <image> ... \n cat EOS <image> ... \n dog EOS
              <image> ... \n dog EOS <pad>

Linear layers, norms and activations compute each token by itself, so that they need not know of it.
Positions begin again in each row, and attention takes the rows one by one (`attention.py`): no mask over
all of them is built, and no row sees another.
"""

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune.example import Batch
from finetune.model.attention import attends_without_mask
from finetune.model.last_layer import compute_supervised_rows

_PACKS = "_packs_rows"
"""Attribute of a language model that trains on packed rows."""


def use_packing(model: nn.Module, packs: bool = True) -> None:
    """Let a model train on packed rows; changed in place."""
    setattr(compute_supervised_rows(model), _PACKS, packs)


def pack_rows(language_model: PreTrainedModel, batch: Batch) -> Batch:
    """Return a batch as a language model takes it: packed where it trains so, or as it is.

    Args:
        language_model: of a PaliGemma.
        batch: padded on the right, on the model's device.
    """
    packs = getattr(language_model, _PACKS, False) and attends_without_mask(language_model, batch)
    return pack(batch) if packs else batch


def pack(batch: Batch) -> Batch:
    """Lay the rows of a batch one after another.

    Args:
        batch: padded on the right.

    Returns:
        The same with tensors of one row, (1, tokens), and columns of it, (1, B * R).
    """
    (rows, width), device = batch["input_ids"].shape, batch["input_ids"].device
    lengths = torch.tensor(batch["lengths"])  # on the CPU, which knows them without waiting for a GPU
    kept = (torch.arange(width) < lengths[:, None]).flatten().nonzero().flatten()
    kept, begins = (place.to(device) for place in (kept, lengths.cumsum(0) - lengths))
    positions = torch.arange(1, width + 1, device=device).expand(rows, -1)
    laid_out: dict[str, Any] = {"position_ids": positions, **batch}
    packed = {
        name: laid_out[name].flatten().index_select(0, kept)[None] for name in _LAID_OUT if name in laid_out
    }
    packed["columns"] = (batch["columns"] + begins[:, None]).view(1, -1)
    return cast(Batch, {**batch, **packed})


_LAID_OUT = ("input_ids", "attention_mask", "token_type_ids", "labels", "blocks", "position_ids")
"""The parts of a batch with a number for each token."""
