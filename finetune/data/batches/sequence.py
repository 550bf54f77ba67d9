"""What a batch says about each token: its part, what it may attend to, and whether it is learned."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from finetune.data.batches.collator import Collator
from finetune.example import IGNORED, Batch

PARTS = ("image", "BOS", "prefix", "newline", "suffix", "EOS", "padding")
"""The parts of a sequence in their order."""

BOTH_WAYS, CAUSAL, NOTHING = "both ways", "causal", "nothing"


class Piece(NamedTuple):
    """Neighboring tokens of the same part."""

    part: str
    """One of `PARTS`."""
    tokens: list[str]
    """As the tokenizer has them, with a space for its mark of one."""
    attention: str
    """`both ways`: they see image and prefix; `causal`: also the suffix before them; `nothing`: padding."""
    is_learned: bool
    """Whether they carry a label."""


def describe_tokens(batch: Batch, row: int, collator: Collator) -> list[Piece]:
    """Return the sequence of one row of a batch, read from its tensors alone.

    Args:
        batch: from the collator, padded on the right.
        row: its number.
        collator: knows the tokens.
    """
    return [
        Piece(part, [token for token, *_ in tokens], attention, is_learned)
        for (part, attention, is_learned), tokens in (
            (key, list(group)) for key, group in groupby(_read(batch, row, collator), lambda one: one[1:])
        )
    ]


def decode_labels(batch: Batch, row: int, collator: Collator) -> str:
    """Return the answers that a row of a batch is trained on, a line each, read from its labels."""
    labels = batch["labels"][row]
    texts: str = collator.tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=False)
    return "\n".join(texts.removesuffix(collator.tokenizer.eos_token).split(collator.tokenizer.eos_token))


def _read(batch: Batch, row: int, collator: Collator) -> Iterator[tuple[str, str, str, bool]]:
    ids: list[int] = batch["input_ids"][row].tolist()
    mask: list[int] = batch["attention_mask"][row].tolist()
    types: list[int] = batch["token_type_ids"][row].tolist()
    labels: list[int] = batch["labels"][row].tolist()
    names: list[str] = collator.tokenizer.convert_ids_to_tokens(ids)
    newline = types.count(0) - len(collator.newline)
    for place, (token, name) in enumerate(zip(ids, names, strict=True)):
        if not mask[place]:
            part, attention = "padding", NOTHING
        elif types[place]:
            attention = CAUSAL
            part = "EOS" if token == collator.tokenizer.eos_token_id else "suffix"
        else:
            attention = BOTH_WAYS
            special = {collator.image_token_id: "image", collator.tokenizer.bos_token_id: "BOS"}
            part = special.get(token, "prefix" if place < newline else "newline")
        yield name.replace("▁", " "), part, attention, labels[place] != IGNORED
