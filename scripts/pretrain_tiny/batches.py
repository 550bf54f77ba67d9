"""Turns examples into PaliGemma's sequences, and computes the loss on their answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pictures import Example, draw_example
from torch.utils.data import Dataset
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

Batch = dict[str, torch.Tensor]

# One pixel of a 56 px picture spans 18 bins, so half a pixel counts as nearly right.
_LOC_SPREAD = 6.0
_LOC_BINS = 1024


class Sequencer:
    """Builds padded batches: image tokens, BOS, prefix, newline, suffix, EOS."""

    def __init__(self, processor: PaliGemmaProcessor) -> None:
        """Keep what the sequences are made of.

        Args:
            processor: The processor of the model to train.
        """
        self.tokenizer = processor.tokenizer
        self.head = [processor.image_token_id] * processor.image_seq_length
        self.head.append(self.tokenizer.bos_token_id)
        self.newline = self._encode("\n")
        self._known: dict[str, list[int]] = {}

    def _encode(self, text: str) -> list[int]:
        """Encode text without special tokens.

        Args:
            text: Any text.

        Returns:
            Token ids.
        """
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def prompt(self, prefix: str) -> list[int]:
        """Build the part of the sequence that is given.

        Args:
            prefix: The prompt text.

        Returns:
            Token ids up to and with the newline.
        """
        if prefix not in self._known:
            self._known[prefix] = self.head + self._encode(prefix) + self.newline
        return self._known[prefix]

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Build a right-padded training batch.

        Args:
            examples: The examples.

        Returns:
            The model's inputs, and `labels` that are -100 outside the answers.
        """
        rows = [
            (self.prompt(e.prefix), [*self._encode(e.suffix), self.tokenizer.eos_token_id])
            for e in examples
        ]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        shape = (len(rows), length)
        ids = np.full(shape, self.tokenizer.pad_token_id)
        kinds = np.ones(shape, dtype=np.int64)
        seen = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, -100)
        for i, (prompt, answer) in enumerate(rows):
            start, end = len(prompt), len(prompt) + len(answer)
            ids[i, :end] = prompt + answer
            kinds[i, :start] = 0
            seen[i, :end] = 1
            labels[i, start:end] = answer
        return {
            "input_ids": torch.from_numpy(ids),
            "token_type_ids": torch.from_numpy(kinds),
            "attention_mask": torch.from_numpy(seen),
            "labels": torch.from_numpy(labels),
            "pixel_values": to_pixel_values([e.pixels for e in examples]),
        }

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Build a left-padded batch for generation.

        Args:
            examples: The examples; their answers are not used.

        Returns:
            The arguments of `generate`.
        """
        rows = [self.prompt(e.prefix) for e in examples]
        length = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
        return {
            "input_ids": ids,
            "token_type_ids": torch.zeros_like(ids),
            "attention_mask": (ids != pad).long(),
            "pixel_values": to_pixel_values([e.pixels for e in examples]),
        }


def to_pixel_values(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Scale pictures that already have the right size, as the image processor does.

    Args:
        pictures: uint8 arrays of shape (side, side, 3).

    Returns:
        Float pictures in [-1, 1], channels first.
    """
    stack = torch.from_numpy(np.stack(pictures))
    return stack.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class DrawnBatches(Dataset[list[Batch]]):
    """The training batches; step `i` depends on the seed and on `i` only."""

    def __init__(self, sequencer: Sequencer, steps: int, batch_size: int, seed: int) -> None:
        """Keep the settings.

        Args:
            sequencer: Builds the sequences.
            steps: The number of batches.
            batch_size: The number of examples in a batch.
            seed: The seed of all pictures.
        """
        self.sequencer = sequencer
        self.steps = steps
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Count the batches.

        Returns:
            The number of batches.
        """
        return self.steps

    def strength(self, step: int) -> float:
        """Say how strongly the pictures of a step are deformed.

        Args:
            step: The step, from 0.

        Returns:
            0 in the first steps, then growing to 1 over the first half of the steps.
        """
        return float(np.clip((step / self.steps - 0.04) / 0.46, 0.0, 1.0))

    def __getitem__(self, step: int) -> list[Batch]:
        """Draw the batch of a step.

        Args:
            step: The step, from 0.

        Returns:
            Two halves, the short sequences first, so that little is spent on padding.
        """
        rng = np.random.default_rng([self.seed, step])
        strength = self.strength(step)
        examples = [draw_example(rng, strength) for _ in range(self.batch_size)]
        examples.sort(key=lambda e: len(e.prefix) + len(e.suffix))
        middle = self.batch_size // 2
        return [self.sequencer.batch(examples[:middle]), self.sequencer.batch(examples[middle:])]


def answer_loss(model: PaliGemmaForConditionalGeneration, batch: Batch, first_loc: int) -> torch.Tensor:
    """Average the loss over the tokens of each answer, then over the examples.

    Args:
        model: The model in training.
        batch: A training batch.
        first_loc: The id of `<loc0000>`.

    Returns:
        The loss.
    """
    labels = batch["labels"]
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    answered = following != -100
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    hidden = model.model(**inputs, use_cache=False)[0]
    logits = model.lm_head(hidden[answered]).float()
    targets = following[answered]
    logp = logits.log_softmax(-1)
    losses = -logp.gather(1, targets[:, None])[:, 0]
    is_loc = (targets >= first_loc) & (targets < first_loc + _LOC_BINS)
    if bool(is_loc.any()):
        bins = torch.arange(_LOC_BINS)
        distance = (bins[None] - (targets[is_loc] - first_loc)[:, None]) / _LOC_SPREAD
        wanted = torch.softmax(-0.5 * distance**2, -1)
        loc_logp = logp[is_loc][:, first_loc : first_loc + _LOC_BINS]
        losses = losses.masked_scatter(is_loc, -(wanted * loc_logp).sum(-1))
    weights = (answered / answered.sum(-1, keepdim=True))[answered]
    return (losses * weights).sum() / len(labels)
