"""Texts longer than the budget, and the length limit of generated answers."""

import logging
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from finetune.assembly.faults import Skipped
from finetune.data.batches.options import CollatorConfig, Overflow, Targets
from finetune.data.examples.survey import Survey
from finetune.errors import UserError
from finetune.generation.options import EvaluationConfig

AT_LEAST = 16
"""Tokens. Even if every reference is one word, a longer wrong answer is not cut."""

log = logging.getLogger(__name__)


def leave_out_overflow(train: Survey, options: CollatorConfig) -> tuple[Survey, Skipped]:
    """Remove the training examples without any suffix that fits; the collator omits single suffixes.

    Args:
        train: survey of the split.
        options: the budget, and the treatment of longer texts.

    Returns:
        The examples, and a line for each omission: `split`, `id` and `reason`, and `suffix` if only that
        was omitted.

    Raises:
        UserError: a text is too long under `collator.overflow=error`, or every example is.
    """
    budget = options.max_text_length
    overflow = train.find_overflow(budget)
    records = [*overflow.examples.values(), *overflow.suffixes]
    if records and options.overflow == Overflow.error:
        reasons = "; ".join(f"`{record['id']}` {record['reason']}" for record in records[:3])
        raise UserError(
            f"{len({record['id'] for record in records})} of {len(train)} train examples are too long: "
            f"{reasons}. Raise collator.max_text_length, or choose collator.overflow=drop or "
            "shorten_prefix."
        )
    if len(overflow.examples) == len(train):
        raise UserError(f"All {len(train)} train examples are longer than {budget} text tokens.")
    if overflow.suffixes:
        log.warning(
            "warning: left out %d suffixes of %d train examples: too long; the examples have others.",
            len(overflow.suffixes),
            len({record["id"] for record in overflow.suffixes}),
        )
    if overflow.examples:
        log.warning(
            "warning: left out %d of %d train examples: too long.", len(overflow.examples), len(train)
        )
    split = train.examples.split
    return train.leave_out(list(overflow.examples)), [{"split": split, **record} for record in records]


class RowLengths(NamedTuple):
    """Sizes of the training rows, in tokens, as they are laid out."""

    longest: int
    """Text tokens of the longest row, BOS, newline and EOS among them."""
    mean: float
    longest_supervised: int
    """Suffixes with EOS of the row with the most."""
    mean_supervised: float
    suffixes: float = 1.0
    """Suffixes that share a row, on average."""
    images: int = 1
    """Of the example with the most."""
    mean_images: float = 1.0

    def cut(self, budget: int) -> "RowLengths":
        """Return them with texts of at most so many tokens, as they would be with another tokenizer."""
        return self._replace(
            longest=min(self.longest, round(budget * self.suffixes)),
            mean=min(self.mean, budget * self.suffixes),
            longest_supervised=min(self.longest_supervised, round(budget * self.suffixes)),
            mean_supervised=min(self.mean_supervised, budget * self.suffixes),
        )


def measure_rows(train: Survey, options: CollatorConfig) -> RowLengths:
    """Measure the rows of which training batches are made.

    Args:
        train: survey of the split.
        options: how many suffixes share a row, and the budget.
    """
    suffixes = train.columns["suffixes"].combine_chunks()
    parents = pc.list_parent_indices(suffixes).to_numpy()
    supervised = pc.list_flatten(suffixes).to_numpy().astype(np.int64) + 1
    # BOS and newline are the prefix's, EOS is counted with the suffix.
    before = train.columns["prefix"].fill_null(0).to_numpy() + train.collator.count_text_tokens("", "") - 1
    text = before[parents] + supervised
    fits = text <= options.max_text_length
    if options.overflow == Overflow.shorten_prefix:
        text, fits = np.minimum(text, options.max_text_length), supervised <= options.max_text_length
    text, supervised, parents = text[fits], supervised[fits], parents[fits]
    shared = 1.0
    if options.targets == Targets.all:
        counts = np.bincount(parents, minlength=len(train))
        supervised = np.bincount(parents, supervised, len(train))[counts > 0]
        text, shared = before[counts > 0] + supervised, float(counts[counts > 0].mean())
    images = train.examples.count_images()
    return RowLengths(
        int(text.max(initial=1)),
        float(text.mean()) if len(text) else 1.0,
        int(supervised.max(initial=1)),
        float(supervised.mean()) if len(text) else 1.0,
        shared,
        int(images.max(initial=1)),
        float(images.mean()) if len(images) else 1.0,
    )


class AnswerLengths(NamedTuple):
    """Lengths of the references, in tokens with EOS."""

    longest: int
    """Length of the longest one of the validation split."""
    cut: int
    """Number of validation examples with a reference longer than `evaluation.max_new_tokens`."""
    longest_of_all: int
    """Length of the longest one of both splits."""


def measure_answers(validation: Survey, train: Survey | None, limit: int | None) -> AnswerLengths:
    """Measure the references.

    Args:
        validation: survey of the validation split.
        train: survey of the training split, if any.
        limit: most tokens of a generated answer, including EOS; None if not yet decided.
    """
    longest, cut = validation.measure_references(limit)
    other = 0 if train is None else train.measure_references()[0]
    return AnswerLengths(longest, cut, max(longest, other))


def settle_longest_answer(options: EvaluationConfig, answers: AnswerLengths, examples: int) -> None:
    """Set `evaluation.max_new_tokens` if it is None, else warn if it cuts references.

    Args:
        options: changed in place.
        answers: lengths of the references.
        examples: number of validation examples.
    """
    limit = options.max_new_tokens
    if limit is not None:
        if answers.cut:
            log.warning(
                "warning: evaluation.max_new_tokens=%d cuts the answers of %d of %d validation examples: "
                "their references have up to %d tokens, EOS among them. evaluation.max_new_tokens=%d has "
                "room for them, and null for a quarter more.",
                limit,
                answers.cut,
                examples,
                answers.longest,
                answers.longest,
            )
        return
    # A quarter more than any reference: an answer to an image of neither split may be longer. A published
    # decode length is never changed, so that scores stay comparable.
    longest = answers.longest_of_all
    options.max_new_tokens = max(AT_LEAST, longest + -(-longest // 4))
