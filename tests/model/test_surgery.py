from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Example
from finetune.model.forward import compute_losses
from finetune.model.surgery import leave_casts_to_autocast
from finetune.speed import SpeedOptions

Build = Callable[..., PaliGemmaForConditionalGeneration]


class Conversions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that are written as float32 copies of tensors in another format."""

    to_float32 = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.dtype == torch.float32:
            self.to_float32 += result.nbytes
        return result


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_without_float32_copies_the_gradients_are_equal_bit_for_bit(
    random_model: Build, processor: PaliGemmaProcessor, make_example: Callable[..., Example], backbone: str
) -> None:
    batch = Collator(processor)([make_example("a b", "c"), make_example("a", "b c d")])
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(random_model(backbone).bfloat16(), config).train()

    def compute() -> tuple[Tensor, dict[str, Tensor], int]:
        """Losses, gradients, and the bytes of the conversions to float32."""
        model.zero_grad()
        with Conversions() as conversions:  # type: ignore[no-untyped-call]
            with torch.autocast("cpu", torch.bfloat16):
                losses = compute_losses(model, batch)
            torch.autograd.backward(losses.mean())
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return losses, gradients, conversions.to_float32

    losses, gradients, copied = compute()
    assert leave_casts_to_autocast(model, SpeedOptions(), autocast=True).is_on
    again, same, less = compute()
    assert torch.equal(losses, again)
    assert gradients
    assert all(torch.equal(gradient, same[name]) for name, gradient in gradients.items())
    assert less < 0.8 * copied


def test_dora_keeps_its_copies(random_model: Build) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", use_dora=True)
    model = get_peft_model(random_model(), config)
    assert not leave_casts_to_autocast(model, SpeedOptions(), autocast=True).is_on
