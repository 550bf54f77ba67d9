"""The one place that calls a PaliGemma with a batch; `decoder.py` reads prompts and answers.

What changes how the model is called (packed rows, which positions get logits) is decided in these
functions; `load.py` chooses the attention kernel.
"""

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from finetune.example import Batch, Prompts
from finetune.model.attention import attention_inputs
from finetune.model.features import as_encoder_output, image_inputs, take_images
from finetune.model.last_layer import compute_supervised_rows
from finetune.model.loss import compute_example_losses
from finetune.model.packing import pack_rows

B = TypeVar("B", bound=Prompts)


def to_device(batch: B, device: torch.device) -> B:
    """Return a batch with its tensors on a device."""
    # From pinned memory, the copy to a GPU runs while the CPU goes on.
    moved = {
        name: value.to(device, non_blocking=device.type == "cuda") if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
    return cast(B, moved)


def model_inputs(model: nn.Module, batch: Prompts, encoded: Tensor | None = None) -> dict[str, Any]:
    """Return those parts of a batch that the model reads, as keyword arguments.

    Args:
        model: a PaliGemma, with an adapter or without, wrapped for distribution or not; changed to take the
            pixels as they are in the batch.
        batch: on the model's device.
        encoded: what `encode_images` returns for the batch, as transformers' `generate` needs it; None: the
            model encodes the images in its forward pass.
    """
    take_images(model)
    images = image_inputs(batch) if encoded is None else {"mm_encoder_outputs": as_encoder_output(encoded)}
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "token_type_ids": batch["token_type_ids"],
        **images,
    }


def compute_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of the supervised tokens: (N, V).

    Args:
        model: a PaliGemma, with an adapter or without, wrapped for distribution or not.
        batch: on the model's device.
    """
    language_model = compute_supervised_rows(model)
    batch = pack_rows(language_model, batch)
    inputs = model_inputs(model, batch) | attention_inputs(language_model, batch)
    supervised = {"supervised_columns": batch["columns"], "supervised_places": batch["places"]}
    logits: Tensor = model(**inputs, **supervised, use_cache=False).logits
    return logits[0]


def compute_losses(
    model: nn.Module, batch: Batch, label_smoothing: float = 0.0, *, mean: bool = True
) -> Tensor:
    """Return the loss of each example of a batch: (examples,), nats.

    Args:
        model: see `compute_logits`.
        batch: on the model's device.
        label_smoothing: see `compute_token_losses`.
        mean: over the example's tokens; otherwise their sum.
    """
    logits = compute_logits(model, batch)
    examples = len(batch["ids"])
    return compute_example_losses(
        logits, batch["targets"], batch["segments"], examples, label_smoothing, mean=mean
    )
