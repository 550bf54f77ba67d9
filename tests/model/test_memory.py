"""Computed memory against what autograd saves, and against figures of the full-size model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.assembly.model import freeze_and_adapt, half_dtype
from finetune.config.compose import compose
from finetune.data.batches.collator import Collator
from finetune.example import Example
from finetune.model.forward import compute_losses
from finetune.model.load import build_meta_model
from finetune.model.memory import StepMemory, StepShape, estimate_memory
from finetune.model.published import published_config
from tests.conftest import noise_image


def estimate(*words: str, shape: StepShape) -> StepMemory:
    options = compose(list(words))
    config = published_config(options.model.path)
    assert config is not None
    base, half = build_meta_model(config, torch.bfloat16), half_dtype(options.trainer)
    learner = freeze_and_adapt(base, options.model, options.freeze, options.peft, half, None)
    return estimate_memory(
        learner,
        config,
        options.peft,
        shape,
        optimizer=options.trainer.optim,
        half=half,
        checkpointing=bool(options.trainer.activation_checkpointing),
    )


ONE = StepShape(examples=1, image_tokens=256, text_tokens=16, supervised_tokens=4)
EIGHT = StepShape(examples=8, image_tokens=256, text_tokens=16, supervised_tokens=4)
GIB = 2**30


def test_weights_and_states_of_the_3b_model_are_those_of_its_parameters() -> None:
    memory = estimate("recipe=vqav2_lora", shape=ONE)
    assert memory.weights / 2 == pytest.approx(2_923_466_480, rel=0.01)
    adapter = 9_805_824  # rank 8 on the seven matrices of 18 layers
    assert (memory.gradients, memory.optimizer) == (4 * adapter, 8 * adapter)
    quantized = estimate("recipe=vqav2_qlora", shape=ONE)
    assert quantized.weights == pytest.approx(2.91e9, rel=0.03)


def test_activations_of_the_3b_model_are_those_counted_on_its_classes() -> None:
    """A decoder layer with float32 adapters under bf16 autocast saves 182 KiB a token."""
    memory = estimate("recipe=vqav2_lora", shape=ONE)
    # The last of the 18 layers saves little.
    assert memory.activations / 1024 / (272 * 17) == pytest.approx(182, rel=0.02)


def test_activations_grow_with_the_batch_and_weight_copies_do_not() -> None:
    one, eight = (estimate("recipe=vqav2_full", shape=shape) for shape in (ONE, EIGHT))
    assert eight.activations < 8 * one.activations
    lora = [estimate("recipe=vqav2_lora", shape=shape).activations for shape in (ONE, EIGHT)]
    assert lora[1] == pytest.approx(8 * lora[0], rel=0.025)


def test_checkpointing_keeps_little_more_than_the_inputs_of_the_layers() -> None:
    words = ["recipe=vqav2_lora", "trainer.activation_checkpointing=true"]
    saved = estimate("recipe=vqav2_lora", shape=EIGHT).activations
    assert estimate(*words, shape=EIGHT).activations < saved / 8


def test_what_nothing_learns_before_saves_nothing() -> None:
    whole = estimate("recipe=vqav2_lora", shape=ONE).activations
    last = estimate("recipe=vqav2_lora", "freeze.last_n=6", shape=ONE).activations
    # Of 17 layers that save everything, 5; the last one saves little besides keys and values.
    assert last == pytest.approx(whole * 5 / 17, rel=0.05)


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_the_estimate_is_what_autograd_saves(
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    processor: PaliGemmaProcessor,
    backbone: str,
) -> None:
    model = random_model(backbone, num_layers=4)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("language_model.layers" in name)
    example = Example("x", (noise_image(0),), "answer en which letter is this?", ("a",))
    batch = Collator(processor)([example] * 4)
    saved: dict[int, Tensor] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def save(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            saved[storage] = tensor
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        compute_losses(model.train(), batch)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    tokens = batch["input_ids"].shape[1] - 64
    shape = StepShape(examples=4, image_tokens=64, text_tokens=tokens, supervised_tokens=2)
    options = compose(["recipe=quickstart", "peft=none"])
    computed = estimate_memory(
        model, model.config, options.peft, shape, optimizer="sgd", half=None, checkpointing=False
    )
    assert computed.activations + computed.logits == pytest.approx(measured, rel=0.1)
