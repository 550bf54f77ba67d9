"""Prompts to answers with their confidence, batch by batch; logits are never kept."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from finetune.example import Prompts
from finetune.generation.answerer import Answerer
from finetune.generation.options import GenerationOptions
from finetune.generation.reading import Reading
from finetune.generation.search import Spoken
from finetune.tasks.task import Answer

T = TypeVar("T")


@torch.no_grad()
def answer_batches(
    model: nn.Module,
    batches: Iterable[tuple[Prompts, T]],
    tokenizer: PreTrainedTokenizerBase,
    options: GenerationOptions,
    autocast: AbstractContextManager[object],
    on_shrink: Callable[[int], None] | None = None,
) -> Iterator[tuple[T, list[Answer]]]:
    """Answer one batch of prompts after another.

    Prompts of the next batches are begun while the longest answers of this one are not finished.

    Args:
        model: in evaluation mode.
        batches: prompts on the CPU, and anything that is needed with their answers.
        tokenizer: the checkpoint's.
        options: see `Answerer`.
        autocast: context of the forward passes, entered for each batch.
        on_shrink: called where memory was short, with the number of prompts at once from then on.

    Yields:
        What came with the prompts, and an answer to each of them, in the order of the batches.

    Raises:
        UserError: the shortest answer of a form is longer than `max_new_tokens`, or the device has no
            memory for a single prompt.
    """
    answerer = Answerer(model, tokenizer, options, autocast, on_shrink)
    waiting: deque[Reading[T]] = deque()
    for prompts, rest in batches:
        waiting.append(Reading(prompts, rest, answerer.image_token))
        answerer.work(waiting)
        while waiting and waiting[0].is_answered:
            yield _finish(waiting.popleft(), tokenizer)
    answerer.work(waiting, finish=True)
    for reading in waiting:
        yield _finish(reading, tokenizer)


def generate_answers(
    model: nn.Module, prompts: Prompts, tokenizer: PreTrainedTokenizerBase, options: GenerationOptions
) -> list[Answer]:
    """Generate one answer to each prompt; see `answer_batches`."""
    [(_, answers)] = answer_batches(model, [(prompts, None)], tokenizer, options, nullcontext())
    return answers


@torch.no_grad()
def generate_tokens(
    model: nn.Module, prompts: Prompts, tokenizer: PreTrainedTokenizerBase, options: GenerationOptions
) -> tuple[Tensor, Tensor]:
    """Return the tokens of the answers and their probabilities: (B, steps) each, padded."""
    answerer = Answerer(model, tokenizer, options, nullcontext())
    reading = Reading(prompts, None, answerer.image_token)
    answerer.work(deque([reading]), finish=True)
    spoken = [answer for answer in reading.answers if answer is not None]
    tokens = [torch.tensor(answer.tokens) for answer in spoken]
    probabilities = [torch.tensor(answer.probabilities) for answer in spoken]
    return (
        pad_sequence(tokens, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence(probabilities, batch_first=True),
    )


def _finish(reading: Reading[T], tokenizer: PreTrainedTokenizerBase) -> tuple[T, list[Answer]]:
    """Return what came with a batch, and its answers."""
    known: dict[int, Answer] = {}
    answers = []
    for spoken, loss in zip(reading.answers, reading.losses, strict=True):
        assert spoken is not None
        # Rows with the same prompt share an answer.
        if id(spoken) not in known:
            known[id(spoken)] = read_answer(spoken, tokenizer)
        answers.append(known[id(spoken)]._replace(loss=loss))
    return reading.rest, answers


def read_answers(
    answers: Tensor, probabilities: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[Answer]:
    """Decode generated tokens.

    Args:
        answers: (B, steps) ids; what follows the first EOS of a row is ignored.
        probabilities: (B, steps), of these tokens.
        tokenizer: the checkpoint's.
    """
    read = []
    for tokens, chances in zip(answers.tolist(), probabilities.tolist(), strict=True):
        end = tokenizer.eos_token_id
        count = tokens.index(end) + 1 if end in tokens else len(tokens)
        read.append(read_answer(Spoken(tokens[:count], chances[:count]), tokenizer))
    return read


def read_answer(spoken: Spoken, tokenizer: PreTrainedTokenizerBase) -> Answer:
    """Decode an answer; if it has locations, with the characters that each token stands for."""
    tokens, probabilities = spoken
    confidence = sum(probabilities) / len(probabilities)
    unfinished = tokens[-1] != tokenizer.eos_token_id
    if not unfinished:
        tokens, probabilities = tokens[:-1], probabilities[:-1]
    text = tokenizer.decode(tokens, skip_special_tokens=False)
    if "<loc" not in text:
        return Answer(text, confidence, unfinished=unfinished)
    ends = _find_ends(tokens, text, tokenizer)
    return Answer(text, confidence, ends, tuple(probabilities), unfinished)


def _find_ends(tokens: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return where each token ends in the text that they make."""
    # An id may be beyond the tokenizer's vocabulary, and stands for nothing then.
    pieces = [(piece or "").replace("\u2581", " ") for piece in tokenizer.convert_ids_to_tokens(tokens)]
    if "".join(pieces) == text:
        return tuple(accumulate(map(len, pieces)))
    # A token may be part of a character: each beginning is decoded.
    counts = range(1, len(tokens) + 1)
    return tuple(len(tokenizer.decode(tokens[:count], skip_special_tokens=False)) for count in counts)
