"""The leak test finds the masks that published scripts train with."""

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from torch import nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.doctor.finding import Level
from finetune.doctor.leak import KERNELS, build_random_model, check_mask, describe_mask
from finetune.example import Batch, Example

BACKBONE_KERNELS = [
    pytest.param(backbone, kernel, id=f"{backbone}-{kernel}")
    for backbone, kernels in KERNELS.items()
    for kernel in kernels
]


class Broken(nn.Module):
    """A model whose inputs are changed on their way."""

    def __init__(self, model: nn.Module, change: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, **inputs: Any) -> Any:
        inputs = dict(inputs)
        self.change(inputs)
        return self.model(**inputs)


def make_batch(processor: PaliGemmaProcessor, *suffixes: str) -> Batch:
    image = Image.radial_gradient("L").convert("RGB")
    return Collator(processor)(
        [Example(suffix, (image,), "answer en which?", (suffix,)) for suffix in suffixes]
    )


def test_every_backbone_and_kernel_passes() -> None:
    findings = list(check_mask())
    assert len(findings) == len(BACKBONE_KERNELS)
    assert {finding.level for finding in findings} == {Level.ok}


@pytest.mark.parametrize(("backbone", "kernel"), BACKBONE_KERNELS)
def test_a_prefix_that_is_causal_is_found(
    processor: PaliGemmaProcessor, backbone: str, kernel: str
) -> None:
    model = build_random_model(backbone, kernel, processor)
    finding = describe_mask("mask", Broken(model, shorten_prefix), make_batch(processor, "a b c", "d"))
    assert finding.level == Level.problem
    assert finding.text.startswith("the prefix is causal: ")


def shorten_prefix(inputs: dict[str, Any]) -> None:
    """Hide the end of the prefix from its beginning, in the way that the kernel is told."""
    del inputs["token_type_ids"]
    if "prefix" in inputs:
        change_lengths(inputs, -5)


def change_lengths(inputs: dict[str, Any], tokens: int) -> None:
    (rows,) = inputs["prefix"]
    inputs["prefix"] = (rows._replace(lengths=tuple(length + tokens for length in rows.lengths)),)


@pytest.mark.parametrize("kernel", ["split_sdpa", "split_eager"])
def test_a_prefix_that_sees_the_answer_is_found(processor: PaliGemmaProcessor, kernel: str) -> None:
    model = build_random_model("paligemma", kernel, processor)
    broken = Broken(model, lambda inputs: change_lengths(inputs, 1))
    finding = describe_mask("mask", broken, make_batch(processor, "a b c", "d"))
    assert finding.text.startswith("leaks: ")


def test_an_answer_that_leaks_is_found(processor: PaliGemmaProcessor) -> None:
    """PaliGemma 1 under sdpa, without padding and without token types: everything sees everything."""
    model = build_random_model("paligemma", "sdpa", processor)
    broken = Broken(model, lambda inputs: inputs.pop("token_type_ids"))
    finding = describe_mask("mask", broken, make_batch(processor, "a b c"))
    assert finding.level == Level.problem
    assert finding.text.startswith("leaks: ")


def test_a_kernel_that_fails_is_a_problem(processor: PaliGemmaProcessor) -> None:
    model = build_random_model("paligemma", "sdpa", processor)

    def fail(inputs: dict[str, Any]) -> None:
        raise RuntimeError("no kernel image is available")

    finding = describe_mask("mask", Broken(model, fail), make_batch(processor, "a"))
    assert (finding.level, finding.text) == (Level.problem, "fails: no kernel image is available")


def test_random_models_leave_the_random_state_alone(processor: PaliGemmaProcessor) -> None:
    import torch

    before = torch.get_rng_state()
    model: PaliGemmaForConditionalGeneration = build_random_model("paligemma", "sdpa", processor)
    assert model.config.text_config.model_type == "gemma"
    assert torch.equal(torch.get_rng_state(), before)
