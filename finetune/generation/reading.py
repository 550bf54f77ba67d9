"""The prompts of a batch: each different one is read once, and each image is encoded once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from finetune.example import AnswerForm, Pixels, Prompts
from finetune.generation.search import Spoken
from finetune.model.cache import RowCache
from finetune.model.decoder import Decoder
from finetune.model.features import encode_images
from finetune.model.forward import to_device
from finetune.model.loss import compute_token_losses

T = TypeVar("T")

_SUPERVISED = 512
"""Most tokens of suffixes that are read at once; their logits are over the whole vocabulary."""


@dataclass(eq=False)
class Distinct:
    """A prompt that one row of a batch has, or several."""

    rows: list[int]
    ids: Tensor
    """(T,) int64: image tokens, BOS, prefix, newline."""
    images: list[int]
    """Its images, as `image_rows` has them."""
    is_read: bool = False


class Reading(Generic[T]):
    """A batch of prompts, and what is known of its answers.

    Args:
        prompts: on the CPU.
        rest: anything that is needed with the answers.
        image_token: id of an image's tokens.
    """

    def __init__(self, prompts: Prompts, rest: T, image_token: int) -> None:
        self.prompts, self.rest = prompts, rest
        self.answers: list[Spoken | None] = [None] * len(prompts["input_ids"])
        self.losses: list[float | None] = [None] * len(self.answers)
        self.distinct = _find_distinct(prompts, image_token)
        self._image_tokens = int((prompts["input_ids"] == image_token).sum())
        self._encoded: Tensor | None = None

    @property
    def is_answered(self) -> bool:
        """Whether each prompt has an answer."""
        return None not in self.answers

    def start_again(self) -> None:
        """Forget what was read without being answered."""
        self._encoded = None
        for prompt in self.distinct:
            prompt.is_read = self.answers[prompt.rows[0]] is not None

    def divide(self, most: int, tokens: int) -> Iterator[list[Distinct]]:
        """Yield the prompts that are not read yet, in parts.

        Args:
            most: prompts in a part.
            tokens: in a part, with padding.
        """
        # The longest last: those next to each other have little padding.
        left = [prompt for prompt in self.distinct if not prompt.is_read]
        while left:
            count = 1
            while count < min(most, len(left)) and (count + 1) * len(left[count].ids) <= tokens:
                count += 1
            yield left[:count]
            left = left[count:]
        self._encoded = None

    def read(
        self, model: nn.Module, decoder: Decoder, part: Sequence[Distinct], tokens: int
    ) -> tuple[Tensor, RowCache]:
        """Read some of the prompts, and compute the loss of their suffixes.

        Args:
            model: the model.
            decoder: of the model.
            part: of what `divide` yields.
            tokens: of images that are encoded at once.

        Returns:
            See `Decoder.read_prompts`.
        """
        device = next(model.parameters()).device
        if self._encoded is None:
            self._encoded = self._encode(model, device, tokens)
        ids = pad_sequence([prompt.ids for prompt in part], batch_first=True).to(device)
        images = torch.tensor([image for prompt in part for image in prompt.images], device=device)
        lengths = [len(prompt.ids) for prompt in part]
        logits, cache = decoder.read_prompts(ids, lengths, self._encoded.index_select(0, images))
        if "suffixes" in self.prompts:
            self._score(decoder, part, logits, cache)
        for prompt in part:
            prompt.is_read = True
        return logits, cache

    def receive(self, prompt: Distinct, answer: Spoken) -> None:
        """Keep the answer of all rows that have a prompt."""
        for row in prompt.rows:
            self.answers[row] = answer
        if self.is_answered:
            # It may wait for the long answers of a batch before it, and images need memory.
            del self.prompts

    def _encode(self, model: nn.Module, device: torch.device, tokens: int) -> Tensor:
        """Return what takes the place of the image tokens of each different image."""
        shown = sum(len(prompt.images) * len(prompt.rows) for prompt in self.distinct)
        count = max(1, tokens * shown // max(1, self._image_tokens))
        # Without `image_rows`, which would repeat them.
        pixels, encoded = self.prompts["pixel_values"], []
        for start in range(0, len(pixels), count):
            some: Pixels = {"pixel_values": pixels[start : start + count]}
            if "pixel_table" in self.prompts:
                some["pixel_table"] = self.prompts["pixel_table"]
            if "image_keys" in self.prompts:
                some["image_keys"] = self.prompts["image_keys"][start : start + count]
            encoded.append(encode_images(model, to_device(cast(Prompts, some), device)))
        if "features" in self.prompts:
            for stored in torch.split(self.prompts["features"], count):
                known: Pixels = {"pixel_values": pixels[:0], "features": stored}
                encoded.append(encode_images(model, to_device(cast(Prompts, known), device)))
        return torch.cat(encoded)

    def _score(self, decoder: Decoder, part: Sequence[Distinct], logits: Tensor, cache: RowCache) -> None:
        """Compute the losses of suffixes, over what is known of their prompts."""
        suffixes = self.prompts["suffixes"]
        turns = max(len(prompt.rows) for prompt in part)
        for turn in range(turns):
            having = [place for place, prompt in enumerate(part) if len(prompt.rows) > turn]
            rows = [part[place].rows[turn] for place in having]
            longest = max(len(suffixes[row]) for row in rows)
            size = max(1, _SUPERVISED // longest)
            for start in range(0, len(having), size):
                some = slice(start, start + size)
                texts = [suffixes[row] for row in rows[some]]
                losses = score_suffixes(decoder, texts, logits, cache, having[some])
                for row, loss in zip(rows[some], losses, strict=True):
                    self.losses[row] = loss


def score_suffixes(
    decoder: Decoder,
    suffixes: Sequence[Sequence[int]],
    logits: Tensor,
    cache: RowCache,
    rows: Sequence[int],
) -> list[float]:
    """Return the loss of each of several texts after their prompts: the mean over its tokens, nats.

    Args:
        decoder: that has read the prompts.
        suffixes: ids of the texts, the last of them EOS.
        logits: of the first tokens after the prompts: (prompts, V).
        cache: of the prompts.
        rows: the prompt of each text.
    """
    device = logits.device
    first = torch.tensor([ids[0] for ids in suffixes], device=device)
    losses = compute_token_losses(logits[torch.tensor(rows, device=device)], first)
    longer = [number for number, ids in enumerate(suffixes) if len(ids) > 1]
    if longer:
        texts = [suffixes[number] for number in longer]
        scores = decoder.score_suffixes(
            [ids[:-1] for ids in texts], cache, [rows[number] for number in longer]
        )
        targets = torch.tensor([token for ids in texts for token in ids[1:]], device=device)
        owners = torch.tensor([number for number in longer for _ in suffixes[number][1:]], device=device)
        losses = losses.index_add(0, owners, compute_token_losses(scores, targets))
    counts = torch.tensor([len(ids) for ids in suffixes], device=device)
    means: list[float] = (losses / counts).tolist()
    return means


def _find_distinct(prompts: Prompts, image_token: int) -> list[Distinct]:
    """Return the different prompts of a batch, the shortest first."""
    images = len(prompts["pixel_values"]) + len(prompts.get("features", ()))
    shown: list[int] = prompts.get("image_rows", torch.arange(images)).tolist()
    counts = (prompts["input_ids"] == image_token).sum(1)
    per_image = int(counts.sum()) // len(shown)
    forms: Sequence[AnswerForm | None] = prompts.get("forms") or [None] * len(counts)
    lengths = prompts["attention_mask"].sum(1).tolist()
    found: dict[object, Distinct] = {}
    begin = 0
    for row, (ids, length, count) in enumerate(
        zip(prompts["input_ids"], lengths, counts.tolist(), strict=True)
    ):
        end = begin + count // per_image
        own = shown[begin:end]
        ids = ids[len(ids) - length :]
        key = (tuple(own), tuple(ids.tolist()), forms[row])
        found.setdefault(key, Distinct([], ids, own)).rows.append(row)
        begin = end
    return sorted(found.values(), key=lambda prompt: len(prompt.ids))
