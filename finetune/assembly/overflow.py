"""Texts that are longer than the budget: examples and suffixes that are left out, with the reason."""

import logging

from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.data.batches.options import Overflow
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError

log = logging.getLogger(__name__)


def leave_out_overflow(
    config: RunConfig, train: ExampleDataset, collator: Collator
) -> tuple[ExampleDataset, list[dict[str, str]]]:
    """Leave out the examples of which no suffix fits; the collator leaves out single suffixes.

    Returns:
        The examples, and what was left out: `split`, `id` and `reason`, and `suffix` where only this was.

    Raises:
        UserError: a text is too long under `collator.overflow=error`, or every example is.
    """
    budget = config.collator.max_text_length
    found = train.find_overflow(collator.find_too_long, budget)
    records = [*found.examples.values(), *found.suffixes]
    if records and config.collator.overflow == Overflow.error:
        reasons = "; ".join(f"`{record['id']}` {record['reason']}" for record in records[:3])
        raise UserError(
            f"{len({record['id'] for record in records})} of {len(train)} train examples are too long: "
            f"{reasons}. Raise collator.max_text_length, or choose collator.overflow=drop or "
            "shorten_prefix."
        )
    if len(found.examples) == len(train):
        raise UserError(f"All {len(train)} train examples are longer than {budget} text tokens.")
    if found.suffixes:
        count = len({record["id"] for record in found.suffixes})
        log.warning(
            "warning: left out %d suffixes of %d train examples: too long; the examples have others.",
            len(found.suffixes),
            count,
        )
    if found.examples:
        log.warning("warning: left out %d of %d train examples: too long.", len(found.examples), len(train))
        train = train.select([index for index in range(len(train)) if index not in found.examples])
    return train, [{"split": train.split, **record} for record in records]
