"""Measures a base on held-out drawn pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from batches import Sequencer
from pictures import Box, Example, detect_example, glyph_example, scene_example
from transformers import PaliGemmaForConditionalGeneration

# Training uses [seed, step]; a third number keeps the held-out pictures apart from all of them.
_HELD_OUT = (20_000_003, 0, 1)
_FOUND = re.compile(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})> ([^;]+)")


def read_boxes(text: str) -> list[tuple[Box, str]]:
    """Read the boxes of a detection answer.

    Args:
        text: The answer.

    Returns:
        Boxes as fractions of the picture, with their names.
    """
    found = []
    for *corners, name in _FOUND.findall(text):
        y0, x0, y1, x1 = (int(corner) / 1023 for corner in corners)
        found.append(((y0, x0, y1, x1), name.strip()))
    return found


def overlap(a: Box, b: Box) -> float:
    """Compute the intersection over union.

    Args:
        a: A box.
        b: Another box.

    Returns:
        The share of the union that is common.
    """
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, height) * max(0.0, width)
    areas = sum(max(0.0, (box[2] - box[0]) * (box[3] - box[1])) for box in (a, b))
    return common / max(areas - common, 1e-9)


@torch.no_grad()
def answer(
    model: PaliGemmaForConditionalGeneration,
    sequencer: Sequencer,
    examples: Sequence[Example],
    max_new_tokens: int = 12,
    batch_size: int = 100,
) -> list[str]:
    """Answer greedily.

    Args:
        model: The model.
        sequencer: Builds its prompts.
        examples: Pictures with prompts.
        max_new_tokens: The longest answer.
        batch_size: The number of pictures at a time.

    Returns:
        One answer for each example.
    """
    model.eval()
    dtype = model.dtype
    texts: list[str] = []
    for start in range(0, len(examples), batch_size):
        prompts = sequencer.prompts(examples[start : start + batch_size])
        prompts["pixel_values"] = prompts["pixel_values"].to(dtype)
        ids = model.generate(**prompts, max_new_tokens=max_new_tokens, do_sample=False)
        new = ids[:, prompts["input_ids"].shape[1] :]
        texts += sequencer.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def f1_at_half(examples: Sequence[Example], texts: Sequence[str]) -> float:
    """Score detection: a box counts if its name is right and it overlaps by at least a half.

    Args:
        examples: The detection examples.
        texts: The answers.

    Returns:
        The F1 over all boxes.
    """
    hits = total = 0
    for example, text in zip(examples, texts, strict=True):
        wanted, got = read_boxes(example.suffix), read_boxes(text)
        total += len(wanted) + len(got)
        for box, name in got:
            match = [w for w in wanted if w[1] == name and overlap(w[0], box) >= 0.5]
            if match:
                hits += 1
                wanted.remove(match[0])
    return 2 * hits / max(1, total)


def measure_base(
    model: PaliGemmaForConditionalGeneration, sequencer: Sequencer, count: int
) -> dict[str, float]:
    """Measure the base on held-out pictures at full deformation.

    Args:
        model: The model.
        sequencer: Builds its prompts.
        count: The number of pictures of each kind.

    Returns:
        Accuracies, and the F1 of detection.
    """
    rng = np.random.default_rng(_HELD_OUT)
    kinds = {
        "letter": [glyph_example(rng, 1.0) for _ in range(count)],
        "shape": [glyph_example(rng, 1.0, shapes=True) for _ in range(count)],
        "scene": [scene_example(rng, 1.0) for _ in range(count)],
    }
    scores = {}
    for kind, examples in kinds.items():
        texts = answer(model, sequencer, examples)
        scores[kind] = float(np.mean([t == e.suffix for t, e in zip(texts, examples, strict=True)]))
    for letters in (True, False):
        examples = [detect_example(rng, 1.0, letters) for _ in range(count)]
        texts = answer(model, sequencer, examples, max_new_tokens=40)
        scores[f"f1_{'letters' if letters else 'shapes'}"] = f1_at_half(examples, texts)
    return {kind: round(score, 4) for kind, score in scores.items()}
