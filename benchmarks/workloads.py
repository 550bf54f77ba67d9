"""The workloads of `step.py`: synthetic images and texts of realistic lengths, the same each time."""

import hashlib
import random
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from PIL import Image

from finetune.assembly.lengths import RowLengths
from finetune.data.batches.collator import Collator
from finetune.example import Example

WORDS = ("a", "b", "c", "d", "e", "f", "g", "h")


class Workload(NamedTuple):
    """Lengths in tokens, each drawn from a range."""

    text: str
    prefix: tuple[int, int]
    suffix: tuple[int, int]
    """Without EOS."""
    targets: int = 1
    """Suffixes of an image."""
    side: int = 224
    """Pixels, of the checkpoint."""
    full: bool = False
    """The language model learns, in float32, in place of an adapter."""


WORKLOADS = {
    "W1": Workload("short answers to questions, as VQAv2", (6, 20), (1, 4)),
    "W2": Workload("five captions of an image, as COCO", (3, 3), (8, 20), targets=5),
    "W3": Workload("questions about pages, as DocVQA", (10, 25), (2, 19), side=896),
    "W4": Workload("boxes as text, as detection", (4, 12), (20, 100)),
    "W5": Workload("long questions with choices, as ScienceQA", (60, 300), (1, 2)),
    "W6": Workload("full fine-tuning on short answers to questions, as VQAv2", (6, 20), (1, 4), full=True),
}


def draw_examples(workload: Workload, count: int, side: int) -> list[Example]:
    """Return examples with one or several suffixes.

    Args:
        workload: its lengths.
        count: number of images.
        side: of the images, pixels: they are not resized.
    """
    draw = random.Random(f"{workload.text} {count}")

    def write(length: tuple[int, int]) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(*length)))

    examples = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        suffixes = tuple(write(workload.suffix) for _ in range(workload.targets))
        examples.append(
            Example(str(number), (Image.fromarray(pixels),), write(workload.prefix), suffixes, epoch=0)
        )
    return examples


def measure_rows(collator: Collator, examples: Sequence[Example]) -> RowLengths:
    """Return the sizes of rows with all suffixes of an example, as `plan` takes them from a survey."""
    rows = [collator.encode(example) for example in examples]
    supervised = [sum(map(len, row.suffixes)) for row in rows]
    text = [
        len(row.before) - collator.tokens_per_image + count
        for row, count in zip(rows, supervised, strict=True)
    ]
    suffixes = sum(len(row.suffixes) for row in rows) / len(rows)
    return RowLengths(max(text), fmean(text), max(supervised), fmean(supervised), suffixes)


def digest(examples: Sequence[Example]) -> str:
    """Return a digest of everything that a step reads of the examples."""
    content = hashlib.sha256()
    for example in examples:
        content.update(repr((example.id, example.prefix, example.suffixes)).encode())
        for image in example.images:
            content.update(image.tobytes())
    return content.hexdigest()[:12]
