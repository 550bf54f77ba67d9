from collections.abc import Callable

import torch
from transformers import PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.data.batches.sequence import BOTH_WAYS, CAUSAL, NOTHING, decode_labels, describe_tokens
from finetune.example import Example


def test_each_token_has_its_part_its_attention_and_its_label(
    processor: PaliGemmaProcessor, make_example: Callable[..., Example]
) -> None:
    collator = Collator(processor)
    long = make_example("<loc0001><loc0002><loc0003><loc0004> a cat", "detect\na cat")
    batch = collator([make_example("red", "what?"), long, make_example("")])
    pieces = describe_tokens(batch, 0, collator)
    assert [piece.part for piece in pieces] == [
        "image", "BOS", "prefix", "newline", "suffix", "EOS", "padding",
    ]  # fmt: skip
    assert [piece.attention for piece in pieces] == [BOTH_WAYS] * 4 + [CAUSAL] * 2 + [NOTHING]
    assert [piece.is_learned for piece in pieces] == [False] * 4 + [True] * 2 + [False]
    assert len(pieces[0].tokens) == collator.tokens_per_image
    assert "".join(pieces[2].tokens) == "what?"
    assert "".join(pieces[4].tokens) == "red"
    # A line break of the prompt is a part of it; only the last one is the separator.
    parts = [piece.part for piece in describe_tokens(batch, 1, collator)]
    assert parts == ["image", "BOS", "prefix", "newline", "suffix", "EOS"]
    assert [piece.part for piece in describe_tokens(batch, 2, collator)][-2:] == ["EOS", "padding"]
    assert [decode_labels(batch, row, collator) for row in range(3)] == [
        "red", "<loc0001><loc0002><loc0003><loc0004> a cat", "",
    ]  # fmt: skip


def test_the_sequence_is_read_from_the_batch_and_not_assumed(
    processor: PaliGemmaProcessor, make_example: Callable[..., Example]
) -> None:
    collator = Collator(processor)
    batch = collator([make_example("red", "what?")])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    assert not any(piece.is_learned for piece in describe_tokens(batch, 0, collator))
    assert decode_labels(batch, 0, collator) == ""
    batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
    assert {piece.attention for piece in describe_tokens(batch, 0, collator)} == {BOTH_WAYS}
