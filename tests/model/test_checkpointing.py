from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.model.checkpointing import choose_checkpoint_every
from finetune.model.forward import compute_losses
from finetune.model.surgery import operate
from finetune.speed import SpeedOptions, Technique

Build = Callable[..., PaliGemmaForConditionalGeneration]


@pytest.fixture
def batch(processor: PaliGemmaProcessor, make_example: Callable[..., Example]) -> Batch:
    return Collator(processor)([make_example("a b", "c"), make_example("a", "b c d", seed=1)])


def count_passes(model: Any, batch: Batch) -> dict[str, list[int]]:
    """Run a step, and return how often each layer of each tower ran."""
    passes: dict[str, list[int]] = {}
    towers = {"vision": model.model.vision_tower.encoder, "language": model.model.language_model}

    def count(tower: str, index: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            passes[tower][index] += 1

        return hook

    for tower, module in towers.items():
        passes[tower] = [0] * len(module.layers)
        for index, layer in enumerate(module.layers):
            # Inside a layer: a layer's own hooks stay outside its checkpoint.
            layer.self_attn.k_proj.register_forward_pre_hook(count(tower, index))
    torch.autograd.backward(compute_losses(model, batch).sum())
    return passes


def table_row(techniques: list[Technique]) -> Technique:
    return next(row for row in techniques if row.option == "checkpoint_every")


def test_every_third_layer_of_each_learning_tower_runs_twice(random_model: Build, batch: Batch) -> None:
    model = random_model(num_layers=6).train()
    techniques = operate(model, SpeedOptions(checkpoint_every=3), activation_checkpointing=True)
    passes = count_passes(model, batch)
    assert passes["language"] == [2, 1, 1, 2, 1, 1]
    assert passes["vision"] == [2 if index % 3 == 0 else 1 for index in range(len(passes["vision"]))]
    layers = sum(map(len, passes.values()))
    recomputed = sum(count - 1 for counts in passes.values() for count in counts)
    assert table_row(techniques) == (
        "checkpoint_every",
        True,
        f"{recomputed} of {layers} layers are recomputed in the backward pass: about "
        f"{0.35 * recomputed / layers:.0%} more time",
    )


def test_a_frozen_tower_is_not_recomputed(random_model: Build, batch: Batch) -> None:
    model = random_model(num_layers=3).train()
    model.model.vision_tower.requires_grad_(False)
    assert table_row(operate(model, SpeedOptions(), activation_checkpointing=True)).is_on
    passes = count_passes(model, batch)
    assert set(passes["vision"]) == {1}
    # Of the last layer few rows are computed: it keeps little.
    assert passes["language"] == [2, 2, 1]


def test_layers_below_the_first_that_learns_are_not_recomputed(random_model: Build, batch: Batch) -> None:
    model = random_model(num_layers=4).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("language_model.layers.2" in name)
    operate(model, SpeedOptions(), activation_checkpointing=True)
    assert count_passes(model, batch)["language"] == [1, 1, 2, 1]


def test_without_checkpointing_nothing_is_recomputed(random_model: Build, batch: Batch) -> None:
    model = random_model(num_layers=3).train()
    assert table_row(operate(model, SpeedOptions())) == (
        "checkpoint_every", False, "no layer is recomputed: the activations of all are kept",
    )  # fmt: skip
    assert count_passes(model, batch)["language"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("available", "every"),
    [
        pytest.param(100, None, id="all-fit"),
        pytest.param(99, 18, id="one-layer"),
        pytest.param(90, 9, id="two-layers"),
        pytest.param(55, 2, id="half"),
        pytest.param(54, 1, id="all"),
        pytest.param(1, 1, id="never-enough"),
    ],
)
def test_the_fewest_layers_that_make_it_fit_are_recomputed(available: int, every: int | None) -> None:
    def bytes_of(every: int | None) -> int:
        return 100 if every is None else 100 - 5 * -(-18 // every)

    assert choose_checkpoint_every(18, bytes_of, available) == every
