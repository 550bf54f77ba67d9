"""Prompts to answers with their confidence, batch by batch; logits are never kept."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from finetune.example import Prompts
from finetune.generation.beam import search_beams
from finetune.generation.limits import build_limits
from finetune.generation.options import EvaluationConfig
from finetune.model.forward import generate_greedily, to_device
from finetune.tasks.task import Answer

UNKNOWN_LENGTH = 128
"""Most tokens of an answer if there are no references; the value of big_vision's command line."""

T = TypeVar("T")


def answer_batches(
    model: nn.Module,
    batches: Iterable[tuple[Prompts, T]],
    tokenizer: PreTrainedTokenizerBase,
    options: EvaluationConfig,
    autocast: AbstractContextManager[object],
) -> Iterator[tuple[T, list[Answer]]]:
    """Answer one batch of prompts after another.

    Args:
        model: in evaluation mode.
        batches: prompts, and anything that is needed with their answers.
        tokenizer: the checkpoint's.
        options: see `generate_answers`.
        autocast: context of the forward passes, entered for each batch.

    Yields:
        What came with the prompts, and an answer to each of them.
    """
    device = next(model.parameters()).device
    for prompts, rest in batches:
        with autocast:
            answers = generate_answers(model, to_device(prompts, device), tokenizer, options)
        yield rest, answers


@torch.no_grad()
def generate_answers(
    model: nn.Module, prompts: Prompts, tokenizer: PreTrainedTokenizerBase, options: EvaluationConfig
) -> list[Answer]:
    """Generate one answer to each prompt.

    Args:
        model: in evaluation mode.
        prompts: on the model's device; their `forms` constrain the answers.
        tokenizer: the checkpoint's.
        options: their `num_beams` and `max_new_tokens`.

    Raises:
        UserError: the shortest answer of a form is longer than `max_new_tokens`.
    """
    steps, beams = options.max_new_tokens or UNKNOWN_LENGTH, options.num_beams
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    forms = prompts.get("forms")
    limits = None if forms is None else build_limits(forms, tokenizer, steps, beams)
    if beams > 1:
        answers, probabilities = search_beams(
            model, prompts, beams=beams, steps=steps, end=end, pad=pad, limits=limits
        )
    else:
        constrain = None if limits is None else limits.constrain
        answers, probabilities = generate_greedily(
            model, prompts, end=end, pad=pad, constrain=constrain, max_new_tokens=steps
        )
    return read_answers(answers, probabilities, tokenizer)


def read_answers(
    answers: Tensor, probabilities: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[Answer]:
    """Decode generated tokens.

    Args:
        answers: (B, steps) ids; what follows the first EOS of a row is ignored.
        probabilities: (B, steps), of these tokens.
        tokenizer: the checkpoint's.
    """
    is_end = answers == tokenizer.eos_token_id
    # Tokens up to and including the first EOS.
    spoken = is_end.cumsum(1) - is_end.long() == 0
    confidences = (probabilities * spoken).sum(1) / spoken.sum(1)
    return [
        _read_answer(row[mask & ~ends], values[mask & ~ends].tolist(), confidence, tokenizer)._replace(
            unfinished=not bool(ends.any())
        )
        for row, values, mask, ends, confidence in zip(
            answers, probabilities, spoken, is_end, confidences.tolist(), strict=True
        )
    ]


def _read_answer(
    ids: Tensor, probabilities: list[float], confidence: float, tokenizer: PreTrainedTokenizerBase
) -> Answer:
    """Decode one answer; if it has locations, with the characters that each token stands for."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    if "<loc" not in text:
        return Answer(text, confidence)
    # Decoded alone, a token may lose its space or be part of a character: each beginning is decoded.
    ends = [len(tokenizer.decode(ids[: n + 1], skip_special_tokens=False)) for n in range(len(ids))]
    return Answer(text, confidence, tuple(ends), tuple(probabilities))
