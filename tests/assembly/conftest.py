"""Data of a run, made of a few examples."""

from finetune.assembly.data import Data
from finetune.assembly.lengths import AnswerLengths
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset


def data_of(examples: ExampleDataset, collator: Collator) -> Data:
    """Return data that trains on these examples, and is scored on them."""
    return Data(
        train=examples,
        lengths=None,
        validation=examples,
        task=examples.task,
        dropped=[],
        answers=AnswerLengths(1, 0, 1),
        shared=len(examples),
        test=None,
        test_shared={},
        collator=collator,
        evaluation_collator=collator,
    )
