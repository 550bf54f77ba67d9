"""A few examples on which two forms of a model are compared: of the validation split, or without data."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import nn
from transformers import PaliGemmaProcessor

from finetune.assembly.custom import build_metric
from finetune.assembly.data import build_collators, build_data
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Batch, Example
from finetune.generation.generate import answer_batches
from finetune.generation.options import EvaluationConfig
from finetune.tasks.task import Task

log = logging.getLogger(__name__)

_PROMPTS = (
    "caption en",
    "describe en",
    "detect cat",
    "answer en what is in the image?",
    "ocr",
    "segment dog",
)
_AT_ONCE = 16
"""Examples in a batch where nothing says how many."""

_LONGEST = 16
"""Most tokens of an answer where nothing says how long answers are."""


@dataclass(frozen=True)
class Samples:
    """Examples, and how they become batches."""

    examples: Sequence[Example]
    origin: str
    """What they are, for messages."""
    collator: Collator
    """Of an evaluation, without a text budget."""
    batch_size: int
    task: Task | None = None
    """Reads answers, so that they can be scored; None for images of noise."""

    def build_batches(self) -> list[Batch]:
        """Return the examples with their first suffix."""
        return [self.collator(part) for part in self._parts()]

    def answer(
        self, model: nn.Module, options: EvaluationConfig, autocast: AbstractContextManager[object]
    ) -> list[str]:
        """Return a model's greedy answer to each example."""
        options = replace(options, num_beams=1, max_new_tokens=options.max_new_tokens or _LONGEST)
        batches = [(self.collator.build_prompts(part), None) for part in self._parts()]
        answered = answer_batches(model, batches, self.collator.tokenizer, options, autocast)
        return [answer.text for _, answers in answered for answer in answers]

    def _parts(self) -> list[Sequence[Example]]:
        starts = range(0, len(self.examples), self.batch_size)
        return [self.examples[start : start + self.batch_size] for start in starts]


def draw_samples(options: RunConfig, processor: PaliGemmaProcessor, count: int) -> Samples:
    """Return the first examples of the validation split; where its data are not there, images of noise.

    Args:
        options: of the run; without a dataset there is only noise.
        processor: of the checkpoint.
        count: most examples.
    """
    collator = build_collators(options, processor)[1]
    size = options.evaluation.batch_size or _AT_ONCE
    if options.dataset is not None:
        try:
            limited = replace(options, evaluation=replace(options.evaluation, limit=count))
            split = build_data(limited, processor, build_metric(options), training=False).validation
            # No grammar: what a form leaves out could hide a difference.
            examples = [replace(split[index], form=None) for index in range(min(count, len(split)))]
            return Samples(examples, "validation examples", collator, size, split.task)
        except UserError as error:
            log.info("the validation data cannot be read, so that images of noise are compared: %s", error)
    return Samples([_draw(number) for number in range(count)], "images of noise", collator, size)


def _draw(number: int) -> Example:
    """Return an image of coloured noise with one of several prompts."""
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((320, 240))
    return Example(str(number), (image,), _PROMPTS[number % len(_PROMPTS)], ("yes",))
