"""The one place that calls a PaliGemma: to train on a batch, to generate from prompts.

What changes how the model is called (its cache, packed rows, which positions get logits) is decided in
these functions, alike for training, evaluation and prediction; `load.py` chooses the attention kernel.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import Cache, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from finetune.example import Batch, Prompts
from finetune.model.attention import attention_inputs
from finetune.model.features import as_encoder_output, encode_images, image_inputs, take_images
from finetune.model.last_layer import compute_supervised_rows
from finetune.model.loss import compute_example_losses

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


Constrain = Callable[[list[int] | None, Tensor], Tensor]
"""From the tokens just chosen, (B,) or None before the first, and the scores of the next ones, (B, V), to
the same scores with minus infinity for what may not follow."""


class _Chooser(LogitsProcessor):
    """Keeps the probability of the greedy choice at each step: (B,) floats, not (B, V) logits.

    It is the probability among all tokens, also where only some of them may follow: a constrained answer is
    no surer than the model is.
    """

    def __init__(self, constrain: Constrain | None) -> None:
        self.steps: list[Tensor] = []
        self._constrain = constrain

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.float().softmax(-1)
        if self._constrain is None:
            self.steps.append(probabilities.amax(-1))
            return scores
        scores = self._constrain(input_ids[:, -1].tolist() if self.steps else None, scores)
        self.steps.append(probabilities.gather(1, scores.argmax(-1, keepdim=True))[:, 0])
        return scores


def generate_greedily(
    model: PreTrainedModel,
    prompts: Prompts,
    *,
    end: int,
    pad: int,
    constrain: Constrain | None = None,
    **settings: int,
) -> tuple[Tensor, Tensor]:
    """Return the likeliest token at each step, and its probability: (B, new tokens) each.

    Args:
        model: a PaliGemma in evaluation mode, with an adapter or without.
        prompts: on the model's device.
        end: id of EOS.
        pad: id after it.
        constrain: called at each step, to leave out tokens that may not follow.
        settings: further arguments of transformers' `generate`: `max_new_tokens`, including EOS.
    """
    chooser = _Chooser(constrain)
    sequences = model.generate(
        **model_inputs(model, prompts, encode_images(model, prompts)),
        **settings,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=pad,
        logits_processor=LogitsProcessorList([chooser]),
    )
    return sequences[:, prompts["input_ids"].shape[1] :], torch.stack(chooser.steps, dim=1)


def prefill(model: nn.Module, prompts: Prompts) -> tuple[Tensor, Cache]:
    """Read the prompts.

    Returns:
        Logits of the first token of each answer, (B, V), and the cache.
    """
    output = model(**model_inputs(model, prompts), use_cache=True, logits_to_keep=1)
    return output.logits[:, -1], output.past_key_values


def step(model: nn.Module, tokens: Tensor, attention_mask: Tensor, cache: Cache) -> Tensor:
    """Read one more token of each row.

    Args:
        model: as it was given to `prefill`.
        tokens: (rows,) int64.
        attention_mask: (rows, length so far), with a column for `tokens`.
        cache: of `prefill`; changed in place.

    Returns:
        Logits of the next token: (rows, V).
    """
    logits: Tensor = model(
        input_ids=tokens[:, None],
        attention_mask=attention_mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1]
