"""Texts that are longer than the budget, and how long a generated answer may be."""

import logging
from dataclasses import replace
from typing import NamedTuple

from omegaconf import OmegaConf

from finetune.assembly.faults import Skipped
from finetune.data.batches.collator import Collator
from finetune.data.batches.options import CollatorConfig, Overflow
from finetune.data.examples.survey import Survey
from finetune.errors import UserError
from finetune.generation.options import EvaluationConfig
from finetune.run.folder import Launch

AT_LEAST = 16
"""Tokens: where every reference is one word, another answer is still read whole."""

log = logging.getLogger(__name__)


def leave_out_overflow(
    train: Survey, collator: Collator, options: CollatorConfig
) -> tuple[Survey, Skipped]:
    """Leave out the examples of which no suffix fits; the collator leaves out single suffixes.

    Args:
        train: the split.
        collator: that of the survey.
        options: the budget, and what happens to a text that is longer.

    Returns:
        The examples, and what was left out: `split`, `id` and `reason`, and `suffix` where only this was.

    Raises:
        UserError: a text is too long under `collator.overflow=error`, or every example is.
    """
    budget = options.max_text_length
    overflow = train.find_overflow(collator, budget)
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


class AnswerLengths(NamedTuple):
    """Lengths of the references, in tokens with EOS."""

    longest: int
    """That of the longest one of the validation split."""
    cut: int
    """Number of validation examples with one longer than `evaluation.max_new_tokens`."""
    longest_of_all: int
    """That of the longest one of both splits."""


def measure_answers(validation: Survey, train: Survey | None, limit: int | None) -> AnswerLengths:
    """Measure the references.

    Args:
        validation: the examples to evaluate on.
        train: those to train on, if any.
        limit: most tokens of a generated answer, EOS among them; None: not decided yet.
    """
    longest, cut = validation.measure_references(limit)
    other = 0 if train is None else train.measure_references()[0]
    return AnswerLengths(longest, cut, max(longest, other))


def settle_longest_answer(
    options: EvaluationConfig, launch: Launch, answers: AnswerLengths, examples: int
) -> Launch:
    """Give `evaluation.max_new_tokens` its value, or report one that cuts references.

    Args:
        options: gets the value where it has none.
        launch: its recipe is what the run leaves as `config.yaml`.
        answers: lengths of the references.
        examples: number of validation examples.

    Returns:
        The launch with the value in its recipe, so that the run's answers are as long without its data.
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
        return launch
    # A quarter more than any reference: an answer to an image that is in neither split may be longer.
    longest = answers.longest_of_all
    options.max_new_tokens = max(AT_LEAST, longest + -(-longest // 4))
    recipe = OmegaConf.create(launch.recipe)
    OmegaConf.update(recipe, "evaluation.max_new_tokens", options.max_new_tokens)
    comments = [line for line in launch.recipe.splitlines() if line.startswith("#")]
    return replace(launch, recipe="\n".join([*comments, OmegaConf.to_yaml(recipe)]))
