"""Suffixes that share image and prefix have the losses and gradients that they have one by one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Example
from finetune.model.forward import compute_losses
from finetune.model.loss import count_items

Build = Callable[..., PaliGemmaForConditionalGeneration]
MakeExample = Callable[..., Example]


@pytest.fixture
def examples(make_example: MakeExample) -> list[Example]:
    """Three captions, one caption, and two of which one is another's beginning; one and two images."""
    one, two = make_example("x", "c", seed=1), make_example("x", "a longer prefix", seed=2)
    return [
        replace(one, id="three", suffixes=("a", "b c d e f", "a b")),
        replace(one, id="one", suffixes=("d",)),
        replace(two, id="two", suffixes=("a b", "a b c"), images=one.images + two.images),
    ]


def separate(examples: list[Example]) -> list[Example]:
    return [replace(example, suffixes=(text,)) for example in examples for text in example.suffixes]


def test_the_tokens_of_a_shared_row_are_fewer(
    processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    shared = Collator(processor, every_suffix=True)(examples[:1])
    alone = Collator(processor)(separate(examples[:1]))
    assert shared["input_ids"].numel() < 0.5 * alone["input_ids"].numel()
    assert len(shared["pixel_values"]) == 1
    assert shared["targets"].tolist() == alone["targets"].tolist()
    assert count_items(shared, "example") == 3


def test_a_suffix_sees_the_prefix_and_itself_alone(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    """What one caption says changes the loss of no other: an answer that leaked would."""
    model, collator = random_model().eval(), Collator(processor, every_suffix=True)
    with torch.no_grad():
        before = compute_losses(model, collator(examples))
        other = replace(examples[0], suffixes=("a", "f e d c b", "a b"))
        after = compute_losses(model, collator([other, *examples[1:]]))
    changed = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert changed == [False, True, False, False, False, False]


def test_rows_with_one_suffix_are_as_ever(processor: PaliGemmaProcessor, examples: list[Example]) -> None:
    batch = Collator(processor, every_suffix=True)(separate(examples))
    assert "blocks" not in batch


def test_suffixes_that_do_not_fit_are_left_out_of_the_row(
    processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    collator = Collator(processor, every_suffix=True, max_text_length=6)
    assert collator(examples[:1])["ids"] == ["three", "three"]
    with pytest.raises(UserError, match="needs 9 text tokens"):
        collator([replace(examples[0], suffixes=("b c d e f",))])
