from collections.abc import Callable

from transformers import PaliGemmaForConditionalGeneration

from finetune.model.freeze import apply_freeze
from finetune.model.options import FreezePolicy, Trainable
from finetune.training.optimizer import build_parameter_groups
from finetune.training.options import TowerOptimizer, TowerOptimizers

Build = Callable[[str], PaliGemmaForConditionalGeneration]


def test_every_learning_parameter_is_in_one_group_and_frozen_ones_in_none(random_model: Build) -> None:
    model = random_model("gemma")
    apply_freeze(model, FreezePolicy(vision_tower=Trainable.none))
    groups = build_parameter_groups(model, 1e-3, 0.1, TowerOptimizers())
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    learning = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(learning)


def test_towers_may_have_their_own_rate_and_decay_and_vectors_never_decay(random_model: Build) -> None:
    towers = TowerOptimizers(
        vision_tower=TowerOptimizer(weight_decay=0.1),
        language_model=TowerOptimizer(learning_rate=1e-5),
    )
    groups = build_parameter_groups(random_model("gemma"), 1e-3, 0.0, towers)
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert found == {
        "vision_tower.matrices": (1e-3, 0.1),
        "vision_tower.vectors": (1e-3, 0.0),
        "multi_modal_projector.matrices": (1e-3, 0.0),
        "multi_modal_projector.vectors": (1e-3, 0.0),
        "language_model.matrices": (1e-5, 0.0),
        "language_model.vectors": (1e-5, 0.0),
    }


def test_a_rate_for_a_frozen_tower_is_reported(random_model: Build, reported: Callable[[], str]) -> None:
    model, towers = random_model("gemma"), TowerOptimizers(vision_tower=TowerOptimizer(learning_rate=1e-5))
    build_parameter_groups(model, 1e-3, 0.0, towers)
    assert reported() == ""
    apply_freeze(model, FreezePolicy(vision_tower=Trainable.none))
    build_parameter_groups(model, 1e-3, 0.0, towers)
    assert "trainer.towers.vision_tower has no effect: nothing of this tower learns" in reported()


def test_what_big_vision_does_not_call_a_kernel_does_not_decay(random_model: Build) -> None:
    model = random_model("gemma")
    (decaying,) = (
        group["params"]
        for group in build_parameter_groups(
            model, 1e-3, 0.0, TowerOptimizers(vision_tower=TowerOptimizer(weight_decay=0.1))
        )
        if group["weight_decay"]
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)].rsplit(".", 2)[-2] for parameter in decaying} == {
        *("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "patch_embedding")
    }
