"""Answers with their confidence, batch by batch; logits are never kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from finetune.generation.beam import search_beams
from finetune.tasks.task import Answer

UNKNOWN_LENGTH = 128
"""Tokens of the longest answer where no reference says more, as big_vision's own command line has it."""


@dataclass(frozen=True)
class Generation:
    """How answers are generated over a split."""

    batch_size: int = 16
    """Prompts at once."""
    max_new_tokens: int = 32
    """Longest answer, EOS among its tokens."""
    num_beams: int = 1
    """1 is greedy; more is big_vision's beam search."""
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
    if generation.num_beams > 1:
        answers, probabilities = search_beams(
            model,
            batch,
            beams=generation.num_beams,
            steps=generation.max_new_tokens,
            end=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
        )
    else:
        answers, probabilities = _search_greedily(model, batch, tokenizer, generation)
    is_end = answers == tokenizer.eos_token_id
    # Tokens up to and including the first EOS.
    own = is_end.cumsum(1) - is_end.long() == 0
    confidences = (probabilities * own).sum(1) / own.sum(1)
    return [
        _read_answer(row[mask & ~end], values[mask & ~end].tolist(), confidence, tokenizer)._replace(
            unfinished=not bool(end.any())
        )
        for row, values, mask, end, confidence in zip(
            answers, probabilities, own, is_end, confidences.tolist(), strict=True
        )
    ]


def _search_greedily(
    model: PreTrainedModel,
    batch: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    generation: Generation,
) -> tuple[Tensor, Tensor]:
    """Return the likeliest token at each step, and its probability: (B, new tokens) each."""
    recorder = _ChosenProbability()
    sequences = model.generate(
        **batch,
        max_new_tokens=generation.max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        logits_processor=LogitsProcessorList([recorder]),
    )
    return sequences[:, batch["input_ids"].shape[1] :], torch.stack(recorder.steps, dim=1)


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
