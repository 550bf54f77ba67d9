"""Packed rows have the losses and gradients of padded ones, and none sees another."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.model.forward import compute_losses
from finetune.model.kernels import use_kernel
from finetune.model.last_layer import compute_supervised_rows
from finetune.model.packing import pack, pack_rows, use_packing

Build = Callable[..., PaliGemmaForConditionalGeneration]
MakeExample = Callable[..., Example]


@pytest.fixture
def examples(make_example: MakeExample) -> list[Example]:
    """Of different lengths, one with two images, two with the same image; one and several suffixes."""
    one = make_example("a", "c", id="one", seed=1)
    long = make_example("a b c d e f", "a longer prefix than that", id="long", seed=2)
    two = replace(make_example("d e", "c d", id="two"), images=one.images + long.images)
    several = replace(one, id="several", suffixes=("a", "b c d e f", "a b"))
    return [one, long, two, several]


def collate(processor: PaliGemmaProcessor, examples: list[Example], **options: Any) -> Batch:
    return Collator(processor, **options)(examples)


def test_no_example_sees_another(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    model, batch = random_model().train(), collate(processor, examples)
    other = [*examples[:1], make_longer(examples[1]), *examples[2:]]
    use_kernel(model, "split_sdpa")
    use_packing(model)
    with torch.no_grad():
        before, after = compute_losses(model, batch), compute_losses(model, collate(processor, other))
    same = torch.tensor([torch.allclose(*pair, rtol=1e-6) for pair in zip(before, after, strict=True)])
    assert same.tolist() == [True, False, True, True]


def make_longer(example: Example) -> Example:
    return replace(example, prefix=f"{example.prefix} b d", suffixes=("f e d c b a b c d e",))


def test_a_packed_batch_has_every_token_once_and_its_columns_point_to_the_same(
    processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    batch = collate(processor, examples, every_suffix=True)
    packed, used = pack(batch), batch["attention_mask"].bool()
    assert packed["input_ids"].tolist() == [batch["input_ids"][used].tolist()]
    assert packed["input_ids"].shape == (1, sum(batch["lengths"]))
    assert packed["attention_mask"].all()
    assert packed["blocks"].tolist() == [batch["blocks"][used].tolist()]
    starts = [sum(batch["lengths"][:row]) for row in range(len(examples))]
    assert packed["position_ids"][0, starts].tolist() == [1] * len(examples)
    following = packed["input_ids"][0, packed["columns"][0, packed["places"]] + 1]
    first = batch["segments"] != batch["segments"].roll(1)
    assert torch.equal(following[~first], batch["targets"][~first])
    newline = packed["input_ids"][0, packed["columns"][0, packed["places"]]][first]
    assert set(newline.tolist()) == {batch["input_ids"][0, batch["prefix_lengths"][0] - 1].item()}


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_flex_attention_computes_packed_rows(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example], backbone: str
) -> None:
    """Uncompiled and without gradients, which it has on GPUs alone."""
    model, batch = random_model(backbone).train(), collate(processor, examples, every_suffix=True)
    torch.compiler.set_stance("force_eager")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the uncompiled kernel
            expected = compute_losses(model, batch)
            use_kernel(model, "flex")
            use_packing(model)
            assert torch.allclose(compute_losses(model, batch), expected, rtol=1e-6)
    finally:
        torch.compiler.set_stance("default")


def test_evaluation_dense_masks_and_windows_keep_padded_rows(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    model, batch = random_model("gemma2").train(), collate(processor, examples)
    language_model = compute_supervised_rows(model)
    use_packing(model)
    assert pack_rows(language_model, batch) is batch
    use_kernel(model, "split_eager")
    assert pack_rows(language_model, batch) is not batch
    assert pack_rows(language_model.eval(), batch) is batch
    model.train().config.text_config.sliding_window = 8
    assert pack_rows(language_model, batch) is batch


def test_the_window_is_compared_with_an_example_and_not_with_the_packed_row(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    model, batch = random_model("gemma2").train(), collate(processor, examples)
    model.config.text_config.sliding_window = batch["input_ids"].shape[1]
    with torch.no_grad():
        expected = compute_losses(model, batch)
        use_kernel(model, "split_eager")
        use_packing(model)
        assert torch.allclose(compute_losses(model, batch), expected, rtol=1e-6)
