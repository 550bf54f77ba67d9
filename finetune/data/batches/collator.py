r"""From examples to a batch: `[image tokens] [BOS] prefix "\n" suffix [EOS]` and its masks.

The pieces are tokenised separately, as in pre-training, so that a token never spans two of them.
`token_type_ids` is 0 up to and including the newline and 1 after it: it gives image and prefix
bidirectional attention and hides the suffix from them. Without it no error is raised, but PaliGemma 1 under
sdpa sees its own answer in a batch without padding; with padding, or under eager (PaliGemma 2), the prefix
becomes causal.
"""

import random
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from typing import cast

import torch
from transformers import PaliGemmaProcessor

from finetune.data.batches.pixels import PixelBuilder
from finetune.data.batches.rows import Row, index_suffixes, lay_out
from finetune.errors import UserError
from finetune.example import Batch, Example, Pixels, Prompts


@dataclass(eq=False)
class Collator:
    """Makes batches; picklable, so that it runs in the DataLoader's workers."""

    processor: InitVar[PaliGemmaProcessor]
    """The checkpoint's tokenizer and image processor."""
    max_text_length: int | None = None
    """Tokens for BOS, prefix, newline, suffix and EOS; None: no limit."""
    shorten_prefix: bool = False
    """Cut the end of a prefix that does not fit, instead of raising."""
    suffix_choice: str = "first"
    """Which of several accepted suffixes: `first`, `random` or `cycle`."""
    every_suffix: bool = False
    """Train on all accepted suffixes instead, in one row for each example."""
    seed: int = 0
    """Of that choice, together with epoch and id."""
    resize: str = "bicubic"
    """`bicubic` or `bilinear`, both Pillow's, or `paper`: big_vision's, antialiased if the example is."""
    uint8_pixels: bool = True
    """Leave the scaling of pixels to the model's device."""

    def __post_init__(self, processor: PaliGemmaProcessor) -> None:
        self.tokenizer = processor.tokenizer
        self.pixels = PixelBuilder(processor.image_processor, self.resize, as_bytes=self.uint8_pixels)
        self.image_token_id: int = processor.image_token_id
        self.tokens_per_image: int = processor.image_seq_length
        self.newline = self._tokenize("\n")
        self._reserved = {
            self.image_token_id,
            self.tokenizer.bos_token_id,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
        }
        self._reserved_names: list[str] = self.tokenizer.convert_ids_to_tokens(sorted(self._reserved))

    def __call__(self, examples: Sequence[Example], pixels: Pixels | None = None) -> Batch:
        """Make a batch to train on, padded on the right.

        Args:
            examples: one row each.
            pixels: what `build_pixels` returns for them, if it is known already.

        Raises:
            UserError: an example has no suffix, is too long, or its text holds a reserved token.
        """
        rows = [self.encode(example) for example in examples]
        tokens, supervised = lay_out(rows, self.tokenizer.pad_token_id), index_suffixes(rows)
        batch = {
            **(self.build_pixels(examples) if pixels is None else pixels),
            "input_ids": tokens.input_ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.token_type_ids,
            "labels": tokens.labels,
            "columns": supervised.columns,
            "places": supervised.places,
            "targets": supervised.targets,
            "segments": supervised.segments,
            "ids": [example.id for example, row in zip(examples, rows, strict=True) for _ in row.suffixes],
            "prefix_lengths": [len(row.before) for row in rows],
            "lengths": [len(row.before) + sum(map(len, row.suffixes)) for row in rows],
        }
        if any(len(row.suffixes) > 1 for row in rows):
            batch |= {"blocks": tokens.blocks, "position_ids": tokens.positions}
        return cast(Batch, batch)

    def build_prompts(self, examples: Sequence[Example], pixels: Pixels | None = None) -> Prompts:
        """Make a batch to generate from: no suffix, padded on the left, never cut.

        Args:
            examples: one row each.
            pixels: what `build_pixels` returns for them, if it is known already.
        """
        rows = [self._encode_prefix(example) for example in examples]
        length = max(map(len, rows))
        pad: int = self.tokenizer.pad_token_id
        prompts = {
            **(self.build_pixels(examples) if pixels is None else pixels),
            "input_ids": torch.tensor([[pad] * (length - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
            "token_type_ids": torch.zeros((len(rows), length), dtype=torch.long),
        }
        if forms := [example.form for example in examples if example.form is not None]:
            prompts["forms"] = forms
        return cast(Prompts, prompts)

    def build_pixels(self, examples: Sequence[Example]) -> Pixels:
        """Resize the images of the examples; equal ones have one row."""
        return self.pixels.build(examples)

    def encode(self, example: Example) -> Row:
        """Tokenise one example with the suffix of its epoch, or all suffixes, of those that fit."""
        if not example.suffixes:
            raise UserError(f"Example `{example.id}` has no suffix to train on.")
        budget = self.max_text_length
        # Left out here, and not in the rows: references and the number of steps stay whole.
        if too_long := self.find_too_long(example.prefix, example.suffixes):
            fitting = tuple(suffix for suffix in example.suffixes if suffix not in too_long)
            if not fitting:
                raise UserError(
                    f"Example `{example.id}` needs {min(too_long.values())} text tokens, but "
                    f"collator.max_text_length={budget}. Raise it, or choose "
                    "collator.overflow=drop or shorten_prefix."
                )
            example = replace(example, suffixes=fitting)
        chosen = example.suffixes if self.every_suffix else (self.choose_suffix(example),)
        suffixes = [[*self._tokenize(text, example), self.tokenizer.eos_token_id] for text in chosen]
        before = self._encode_prefix(example)
        images = self.tokens_per_image * len(example.images or example.stored)
        excess = 0 if budget is None else len(before) - images + max(map(len, suffixes)) - budget
        if excess > 0:
            before = before[: -len(self.newline) - excess] + self.newline
        return Row(before, suffixes)

    def find_too_long(self, prefix: str, suffixes: Sequence[str]) -> dict[str, int]:
        """Return the suffixes that do not fit after a prefix, with the text tokens that each would need.

        If prefixes are shortened, only a suffix that is too long after an empty prefix does not fit.
        """
        if self.max_text_length is None:
            return {}
        prefix = "" if self.shorten_prefix else prefix
        room = self.max_text_length - self.count_text_tokens("", "")
        # No token is shorter than a byte, so that short texts need not be tokenised.
        room -= len(prefix.encode())
        doubtful = [suffix for suffix in dict.fromkeys(suffixes) if len(suffix.encode()) > room]
        lengths = {suffix: self.count_text_tokens(prefix, suffix) for suffix in doubtful}
        return {suffix: tokens for suffix, tokens in lengths.items() if tokens > self.max_text_length}

    def choose_suffix(self, example: Example) -> str:
        """Choose one of the accepted suffixes, from (seed, epoch, id) alone.

        `cycle` uses all of them, in a new random order for each round, before any is repeated.
        """
        count = len(example.suffixes)
        if count == 1 or self.suffix_choice == "first":
            return example.suffixes[0]
        if self.suffix_choice == "random":
            # Not from a worker's state: the same with any number of workers, and after a resume.
            draw = random.Random(f"{self.seed} {example.epoch} {example.id}")
            return example.suffixes[draw.randrange(count)]
        round_, turn = divmod(example.epoch, count)
        order = list(range(count))
        random.Random(f"{self.seed} {round_} {example.id}").shuffle(order)
        return example.suffixes[order[turn]]

    def count_text_tokens(self, prefix: str, suffix: str) -> int:
        """Return the length of BOS, prefix, newline, suffix and EOS."""
        pieces = len(self._tokenize(prefix)) + len(self._tokenize(suffix))
        return 2 + len(self.newline) + pieces

    def count_tokens(self, text: str) -> int:
        """Return the length of a text alone."""
        # Without what transformers does around it, and without the places of the tokens in the text: a
        # quarter of the time.
        return len(self.tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])

    def describe_tokenizer(self) -> str:
        """Return everything that the length of a text depends on."""
        return f"{self._reserved_names} {self.tokenizer.backend_tokenizer.to_str()}"

    def find_reserved(self, text: str) -> str | None:
        """Return a reserved token that a text contains, such as `<image>`, or None."""
        return next((name for name in self._reserved_names if name in text), None)

    def list_special(self) -> list[str]:
        """Return the tokenizer's special tokens besides the reserved ones, such as `<mask>`."""
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return sorted(special.difference(self._reserved_names))

    def _encode_prefix(self, example: Example) -> list[int]:
        images = [self.image_token_id] * (self.tokens_per_image * len(example.images or example.stored))
        prefix = self._tokenize(example.prefix, example)
        return [*images, self.tokenizer.bos_token_id, *prefix, *self.newline]

    def _tokenize(self, text: str, example: Example | None = None) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if example is not None and not self._reserved.isdisjoint(ids):
            name = self.tokenizer.convert_ids_to_tokens(min(self._reserved.intersection(ids)))
            raise UserError(
                f"Example `{example.id}`: its text {text!r} contains the reserved token {name}. "
                "Leave it out: image tokens, BOS and EOS are added here."
            )
        return ids
