from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.config.compose import compose, group_choices
from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Example
from finetune.model.checkpointing import enable_activation_checkpointing
from finetune.model.freeze import apply_freeze
from finetune.model.lora import add_adapter
from finetune.model.options import FreezePolicy, PeftConfig, Trainable
from finetune.model.surgery import run_frozen_tower_without_graph
from finetune.model.towers import tower_of
from finetune.speed import SpeedOptions
from tests.conftest import labelled_inputs

Build = Callable[..., PaliGemmaForConditionalGeneration]

LEARNS = {
    "none": {"vision_tower", "multi_modal_projector", "language_model"},
    "vision": {"language_model"},
    "vision_tower": {"multi_modal_projector", "language_model"},
    "language_model": {"vision_tower", "multi_modal_projector"},
    "attention_only": {"language_model"},
    "projector_only": {"multi_modal_projector"},
    "last_n": {"language_model"},
}


def test_every_choice_of_the_group_is_tested_here() -> None:
    assert set(LEARNS) == set(group_choices("freeze"))


@pytest.mark.parametrize("choice", LEARNS)
def test_a_policy_lets_exactly_its_towers_learn(random_model: Build, choice: str) -> None:
    model = random_model()
    words = ["recipe=quickstart_full", f"freeze={choice}"]
    apply_freeze(model, compose(words + ["freeze.last_n=1"] * (choice == "last_n")).freeze)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {tower_of(name) for name in learning} == LEARNS[choice]
    if choice == "attention_only":
        assert all(".self_attn." in name for name in learning)
        assert len(learning) == 4 * 4
    elif choice == "last_n":
        assert all(".layers.3." in name for name in learning)
    else:
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        assert {tower_of(name) for name in frozen}.isdisjoint(LEARNS[choice])


def test_more_layers_than_there_are_is_an_error(random_model: Build) -> None:
    with pytest.raises(UserError, match="freeze.last_n=9, but the language model has 4 layers"):
        apply_freeze(random_model(), FreezePolicy(last_n=9))


def make_batch(processor: PaliGemmaProcessor, make_example: Callable[..., Example]) -> dict[str, Any]:
    return labelled_inputs(
        Collator(processor)([make_example("a red circle"), make_example("blue", seed=1)])
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_tower_builds_no_graph_and_gradients_stay_the_same(
    random_model: Build,
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
    checkpointing: bool,
) -> None:
    batch = make_batch(processor, make_example)

    def gradients(treated: bool) -> tuple[list[torch.Tensor], bool, int]:
        model = add_adapter(
            random_model(), FreezePolicy(Trainable.none, Trainable.none, Trainable.all), PeftConfig()
        )
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        passes = []
        # Inside a layer: a layer's own hooks stay outside its checkpoint.
        layer = model.get_base_model().model.vision_tower.encoder.layers[0].self_attn.q_proj
        layer.register_forward_pre_hook(lambda *_: passes.append(1))
        if treated:
            assert run_frozen_tower_without_graph(model, SpeedOptions()).is_on
            if checkpointing:
                enable_activation_checkpointing(model)
        elif checkpointing:
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.train()
        output = model(**batch, use_cache=False)
        output.loss.backward()
        learnt = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(gradient is not None for gradient in learnt)
        return learnt, output.image_hidden_states.requires_grad, len(passes)

    plain, hooked, plain_passes = gradients(False)
    ours, has_graph, passes = gradients(True)
    assert (has_graph, passes) == (False, 1)
    if checkpointing:
        assert (hooked, plain_passes) == (True, 2), "the trap this avoids is gone: simplify"
    for one, other in zip(plain, ours, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_learning_tower_keeps_its_graph(
    random_model: Build, processor: PaliGemmaProcessor, make_example: Callable[..., Example]
) -> None:
    model = random_model()
    apply_freeze(model, FreezePolicy(language_model=Trainable.none, multi_modal_projector=Trainable.none))
    assert not run_frozen_tower_without_graph(model, SpeedOptions()).is_on
    enable_activation_checkpointing(model)
    model.train()
    model(**make_batch(processor, make_example), use_cache=False).loss.backward()
    gradients = [p.grad for p in model.model.vision_tower.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[:4])
