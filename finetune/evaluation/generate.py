"""Answers with their confidence, batch by batch; logits are never kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from finetune.tasks.task import Answer


@dataclass(frozen=True)
class Generation:
    """How answers are generated over a split."""

    batch_size: int = 16
    """Prompts at once."""
    max_new_tokens: int = 32
    """Longest answer."""
    num_beams: int = 1
    """1 is greedy; more is beam search by summed log-probability, without length normalisation
    (big_vision's `beam_decode`)."""
    workers: int = 0
    """Processes that decode pictures."""


class _ChosenProbability(LogitsProcessor):
    """Keeps the probability of the greedy choice at each step: (B,) floats, not (B, V) logits."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.float().softmax(-1).amax(-1))
        return scores


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    batch: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    generation: Generation,
) -> list[Answer]:
    """Generate one answer to each prompt.

    Args:
        model: in evaluation mode.
        batch: `input_ids`, `attention_mask`, `token_type_ids`, padded on the left, and `pixel_values`.
        tokenizer: the checkpoint's.
        generation: greedy or beam search, and the longest answer.
    """
    num_beams = generation.num_beams
    recorder = _ChosenProbability()
    sequences = model.generate(
        **batch,
        max_new_tokens=generation.max_new_tokens,
        do_sample=False,
        num_beams=num_beams,
        length_penalty=0.0 if num_beams > 1 else None,
        use_cache=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        logits_processor=LogitsProcessorList([recorder] if num_beams == 1 else []),
    )
    answers = sequences[:, batch["input_ids"].shape[1] :]
    if num_beams == 1:
        probabilities = torch.stack(recorder.steps, dim=1)
    else:
        probabilities = _score_answers(model, batch, sequences)
    is_end = answers == tokenizer.eos_token_id
    # Tokens up to and including the first EOS.
    own = is_end.cumsum(1) - is_end.long() == 0
    confidences = (probabilities * own).sum(1) / own.sum(1)
    return [
        _read_answer(row[mask & ~end], values[mask & ~end].tolist(), confidence, tokenizer)
        for row, values, mask, end, confidence in zip(
            answers, probabilities, own, is_end, confidences.tolist(), strict=True
        )
    ]


def _read_answer(
    ids: Tensor, probabilities: list[float], confidence: float, tokenizer: PreTrainedTokenizerBase
) -> Answer:
    """Decode one answer; where it has locations, say which characters each token stands for."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    if "<loc" not in text:
        return Answer(text, confidence)
    # A token alone does not show its space, nor a part of a character: each prefix is decoded.
    ends = [len(tokenizer.decode(ids[: n + 1], skip_special_tokens=False)) for n in range(len(ids))]
    return Answer(text, confidence, tuple(ends), tuple(probabilities))


def _score_answers(model: PreTrainedModel, batch: Mapping[str, Any], sequences: Tensor) -> Tensor:
    """Return the probability of every generated token: (B, new tokens).

    A beam's tokens were chosen among several hypotheses; one more pass over prompt and answer costs
    less memory than the logits of all beams and steps.
    """
    prompt = batch["input_ids"].shape[1]
    answers = sequences[:, prompt:]
    ones = torch.ones_like(answers)
    keep = torch.zeros_like(sequences, dtype=torch.bool)
    keep[:, prompt - 1 : -1] = True
    logits = model(
        input_ids=sequences,
        pixel_values=batch["pixel_values"],
        attention_mask=torch.cat([batch["attention_mask"], ones], 1),
        token_type_ids=torch.cat([batch["token_type_ids"], ones], 1),
        logits_to_keep=keep,
        use_cache=False,
    ).logits
    chosen = logits.float().softmax(-1).gather(1, answers.reshape(-1, 1))
    return chosen.reshape(answers.shape)
