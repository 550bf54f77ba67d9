"""What the lean passes keep, and where they leave the work to PEFT and transformers."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.model.forward import compute_losses
from finetune.model.lean_layers import install_lean_passes
from finetune.speed import SpeedOptions

Build = Callable[..., PaliGemmaForConditionalGeneration]
OFF = {"lean_adapters": False, "lean_mlp": False, "lean_norms": False}


@pytest.fixture
def batch(processor: PaliGemmaProcessor, make_example: Callable[..., Example]) -> Batch:
    return Collator(processor)([make_example("a b", "c"), make_example("a", "b c d", seed=1)])


@pytest.fixture
def adapt(random_model: Build) -> Callable[..., PeftModel]:
    def build(speed: SpeedOptions | None = None, **options: float) -> PeftModel:
        """A model with adapters everywhere; without `speed` as PEFT builds it."""
        settings = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **options}
        model = get_peft_model(random_model(num_layers=2), LoraConfig(**settings)).train()
        if speed is not None:
            install_lean_passes(model, speed)
        return model

    return build


def gradients(model: PeftModel, batch: Batch, half: bool = False) -> Tensor:
    """The losses and all gradients, in one vector."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = compute_losses(model, batch)
    torch.autograd.backward(losses.sum())
    parts = [losses.detach(), *(p.grad for _, p in sorted(model.named_parameters()) if p.grad is not None)]
    return torch.cat([part.float().flatten() for part in parts])


@pytest.mark.parametrize("option", OFF)
def test_each_pass_keeps_less(adapt: Callable[..., PeftModel], batch: Batch, option: str) -> None:
    def count(model: PeftModel) -> int:
        saved: dict[int, Tensor] = {}

        def save(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with saved_tensors_hooks(save, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
            compute_losses(model.bfloat16(), batch)
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())

    alone = SpeedOptions(**{**OFF, option: True})
    assert count(adapt(alone)) < count(adapt())


def test_half_precision_is_as_near_to_float32_as_before(
    adapt: Callable[..., PeftModel], batch: Batch
) -> None:
    exact = gradients(adapt(), batch)

    def error(*speed: SpeedOptions) -> float:
        return float((gradients(adapt(*speed).bfloat16(), batch, half=True) - exact).norm())

    assert 0 < error(SpeedOptions()) < 1.05 * error()


def test_evaluation_is_as_before(adapt: Callable[..., PeftModel], batch: Batch) -> None:
    plain, lean = adapt(), adapt(SpeedOptions())
    with torch.no_grad():
        assert torch.equal(compute_losses(lean, batch), compute_losses(plain, batch))


def test_a_merged_adapter_and_one_that_is_switched_off_are_not_added(
    adapt: Callable[..., PeftModel], batch: Batch
) -> None:
    model = adapt(SpeedOptions())
    with_adapter = gradients(model, batch)[: len(batch["ids"])]
    model.merge_adapter()
    assert torch.allclose(compute_losses(model, batch), with_adapter, rtol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(compute_losses(model, batch), with_adapter, rtol=1e-5)
    with model.disable_adapter():
        assert not torch.allclose(compute_losses(model, batch), with_adapter, rtol=1e-3)
        lean = compute_losses(model, batch)
    with (plain := adapt()).disable_adapter():
        assert torch.allclose(lean, compute_losses(plain, batch), rtol=1e-6)


def test_an_adapter_with_dropout_is_left_to_peft(adapt: Callable[..., PeftModel]) -> None:
    rows = install_lean_passes(adapt(lora_dropout=0.5), SpeedOptions())
    assert [(row.option, row.is_on) for row in rows] == [
        ("lean_adapters", False),
        ("lean_mlp", False),
        ("lean_norms", True),
    ]
    assert rows[0].detail == "peft.lora_dropout drops activations"


def test_formats_that_differ_without_autocast_are_left_to_peft(
    adapt: Callable[..., PeftModel], batch: Batch
) -> None:
    """PEFT then computes adapters in their own format."""

    def losses(*speed: SpeedOptions) -> Tensor:
        model = adapt(*speed).bfloat16()
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        return compute_losses(model, batch)

    products = SpeedOptions(lean_norms=False)
    assert torch.equal(losses(products), losses())
