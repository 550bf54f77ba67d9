"""Every shortcut alone, and all together, has the losses and gradients of the plain path."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from typing import Any, NamedTuple

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.model.forward import compute_losses
from finetune.model.surgery import operate
from finetune.speed import SpeedOptions
from tests.conftest import noise_image

Build = Callable[..., PaliGemmaForConditionalGeneration]

DEFAULTS = SpeedOptions()
PLAIN = replace(DEFAULTS, **{field.name: False for field in fields(DEFAULTS) if field.type is bool})
"""Without any shortcut."""
ALONE = {
    field.name: replace(PLAIN, **{field.name: getattr(DEFAULTS, field.name)}) for field in fields(DEFAULTS)
} | {"checkpoint_every": replace(PLAIN, checkpoint_every=2)}
ALL = {"all": DEFAULTS, "all-and-every-second": replace(DEFAULTS, checkpoint_every=2)}
OUTPUTS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
METHODS = ["none", "lora", "dora", "qlora", "modules_to_save"]


class Outcome(NamedTuple):
    losses: Tensor
    gradients: dict[str, Tensor]


def draw_examples() -> Iterator[list[Example]]:
    """Two forward passes of one step: of several lengths, with two images, with an image twice."""
    red, blue = noise_image(1), noise_image(2)
    yield [
        Example("short", (red,), "c", ("a",)),
        Example("two images", (red, blue), "a longer prefix than that", ("b c d",)),
        Example("again", (red,), "caption", ("a b c d e f g h",)),
    ]
    yield [Example("blue", (blue,), "answer en", ("e",)), Example("long", (red,), "x", ("a b c d e f",))]


def quantize(model: nn.Module) -> None:
    """Store the language model's layers in 4 bits, and compute with them in float32."""
    for module in model.get_submodule("model.language_model.layers").modules():
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear):
                packed = bnb.nn.Linear4bit(
                    layer.in_features, layer.out_features, bias=False, compute_dtype=torch.float32
                )
                packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
                setattr(module, name, packed.to("cpu"))


def adapt(model: PaliGemmaForConditionalGeneration, method: str) -> nn.Module:
    if method == "none":
        return model
    if method == "qlora":
        quantize(model)
        model.is_loaded_in_4bit = True
    copied = ["multi_modal_projector"] if method == "modules_to_save" else None
    config = LoraConfig(
        r=4,
        target_modules=OUTPUTS,
        use_dora=method == "dora",
        modules_to_save=copied,
        init_lora_weights=False,
    )
    return get_peft_model(model, config)


@pytest.fixture(scope="module")
def outcome(random_model: Build, processor: PaliGemmaProcessor) -> Callable[..., Outcome]:
    """Run a step of two forward passes; each result is computed once."""

    @cache
    def run(backbone: str, method: str, name: str) -> Outcome:
        speed = {"plain": PLAIN, **ALONE, **ALL}[name]
        model = adapt(random_model(backbone, num_layers=3), method).train()
        operate(model, speed, activation_checkpointing=speed.checkpoint_every is not None)
        collate = Collator(processor, uint8_pixels=speed.uint8_pixels)
        batches: list[Batch] = [collate(examples) for examples in draw_examples()]
        losses = []
        for batch in batches:
            losses.append(compute_losses(model, batch))
            torch.autograd.backward(losses[-1].sum() / 5)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return Outcome(torch.cat(losses).detach(), gradients)

    return run


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [*ALONE, *ALL])
def test_a_shortcut_has_the_losses_and_gradients_of_the_plain_path(
    outcome: Callable[..., Outcome], backbone: str, method: str, name: str
) -> None:
    plain, fast = outcome(backbone, method, "plain"), outcome(backbone, method, name)
    assert torch.allclose(fast.losses, plain.losses, rtol=1e-6, atol=0)
    assert plain.gradients
    assert fast.gradients.keys() == plain.gradients.keys()
    # A key's bias has no gradient: what is computed of it is rounding.
    rounding = 1e-7 * max(gradient.norm() for gradient in plain.gradients.values())
    for parameter, gradient in plain.gradients.items():
        difference = (fast.gradients[parameter] - gradient).norm()
        assert difference <= 1e-5 * gradient.norm() + rounding, parameter


def count_techniques(random_model: Build, method: str, **more: Any) -> set[str]:
    model = adapt(random_model(num_layers=1), method)
    return {row.option for row in operate(model, DEFAULTS, **more) if row.is_on}


def test_the_shortcuts_of_a_model_are_on_where_they_apply(random_model: Build) -> None:
    """So that the equality above is not that of two plain paths."""
    anywhere = {"last_layer", "distinct_images", "lean_mlp", "lean_norms", "checkpoint_every"}
    with_adapter = anywhere | {"frozen_tower", "lean_adapters"}
    assert count_techniques(random_model, "none") == anywhere
    assert count_techniques(random_model, "lora") == with_adapter
    assert count_techniques(random_model, "lora", autocast=True) == with_adapter | {"half_inputs"}
    assert count_techniques(random_model, "qlora") == with_adapter
    assert count_techniques(random_model, "dora") == with_adapter - {"lean_adapters", "lean_mlp"}
