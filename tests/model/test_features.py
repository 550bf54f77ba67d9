"""Losses and gradients with each distinct image encoded once are those of transformers' own forward."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.generation.generate import generate_tokens
from finetune.generation.options import GenerationOptions
from finetune.model.features import encode_images, spread_pixels
from finetune.model.forward import compute_losses
from finetune.model.loss import compute_example_losses
from finetune.model.surgery import share_images
from finetune.speed import SpeedOptions
from tests.conftest import plain_inputs

Build = Callable[..., PaliGemmaForConditionalGeneration]
MakeExample = Callable[..., Example]


@pytest.fixture
def examples(make_example: MakeExample) -> list[Example]:
    """Three questions about one image, another image, and both of them; of different lengths."""
    one, other = make_example("a", "b c", seed=1), make_example("d e", "f", seed=2)
    return [
        one,
        replace(one, id="two", prefix="a longer question", suffixes=("g h i",)),
        other,
        replace(one, id="four", images=other.images + one.images),
        replace(other, id="five", suffixes=("z",)),
    ]


def plain_losses(model: nn.Module, batch: Batch) -> Tensor:
    """The losses of transformers' own forward: each image by itself, logits at all positions."""
    logits = model(**plain_inputs(batch), use_cache=False).logits[:, :-1]
    kept = batch["labels"][:, 1:] != -100
    return compute_example_losses(logits[kept], batch["targets"], batch["segments"], len(batch["ids"]))


def gradients(losses: Tensor, model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(losses.mean())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_bytes_and_floats_have_equal_losses_and_gradients_bit_for_bit(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example], backbone: str
) -> None:
    model = random_model(backbone).train()
    results = []
    for as_bytes in (True, False):
        losses = compute_losses(model, Collator(processor, uint8_pixels=as_bytes)(examples))
        results.append((losses, gradients(losses, model)))
    (losses, found), (expected, slow) = results
    assert torch.equal(losses, expected)
    assert found.keys() == slow.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in slow.items())


@pytest.mark.parametrize("distinct", [True, False])
def test_the_tower_is_given_each_image_once(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example], distinct: bool
) -> None:
    model, seen = random_model(), []
    model.model.vision_tower.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    assert share_images(model, SpeedOptions(distinct_images=distinct)).is_on == distinct
    compute_losses(model, Collator(processor)(examples))
    prompts = Collator(processor).build_prompts(examples)
    generate_tokens(model.eval(), prompts, processor.tokenizer, GenerationOptions(max_new_tokens=2))
    # Answers are always of distinct images.
    assert seen == [2 if distinct else 6, 2]


def test_dropout_in_the_tower_draws_for_each_image(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    batch = Collator(processor)(examples)

    def losses(*changed: Any) -> Tensor:
        tower = r".*vision_tower.*\.(q|v)_proj"
        adapter = LoraConfig(r=4, lora_dropout=0.5, init_lora_weights=False, target_modules=tower)
        model = get_peft_model(random_model(), adapter).train()
        if changed:
            assert not share_images(model, SpeedOptions()).is_on
        torch.manual_seed(3)
        return compute_losses(model, batch) if changed else plain_losses(model, batch)

    assert torch.allclose(losses("distinct"), losses(), rtol=1e-5)


def test_generation_and_encoding_are_transformers_own(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    model, prompts = random_model().eval(), Collator(processor).build_prompts(examples)
    with torch.no_grad():
        features = model.get_image_features(spread_pixels(prompts)).pooler_output
        expected = model.generate(**plain_inputs(prompts), max_new_tokens=5, do_sample=False)
        assert torch.allclose(encode_images(model, prompts), features, atol=1e-5)
        options = GenerationOptions(max_new_tokens=5)
        tokens, _ = generate_tokens(model, prompts, processor.tokenizer, options)
        again = model.generate(**plain_inputs(prompts), max_new_tokens=5, do_sample=False)
    assert torch.equal(tokens, expected[:, prompts["input_ids"].shape[1] :])
    assert torch.equal(again, expected)


class Wrapper(nn.Module):
    """As one for distribution, which must see all that learns within one call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls = 0
        self.is_inside = False

    def forward(self, **inputs: Any) -> Any:
        self.calls, self.is_inside = self.calls + 1, True
        result = self.module(**inputs)
        self.is_inside = False
        return result


def test_a_wrapper_for_distribution_sees_all_in_one_call(
    random_model: Build, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    model, seen = random_model().train(), []
    wrapped = Wrapper(model)
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        part.register_forward_pre_hook(lambda *_: seen.append(wrapped.is_inside))
    compute_losses(wrapped, Collator(processor)(examples))
    assert (seen, wrapped.calls) == ([True, True], 1)
