import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError
from finetune.model.adapter import continue_adapter, load_adapter, read_adapter
from finetune.model.load import build_meta_model, load_config, load_model
from finetune.model.lora import add_adapter
from finetune.model.options import FreezePolicy, PeftConfig, Trainable

TEXT_ONLY = FreezePolicy(Trainable.none, Trainable.none, Trainable.all)
SETTINGS = PeftConfig(modules_to_save=["multi_modal_projector"])


def base(**options: Any) -> PaliGemmaForConditionalGeneration:
    return load_model("tiny", load_config("tiny"), **options)


def draw_adapter(policy: FreezePolicy = TEXT_ONLY, settings: PeftConfig = SETTINGS) -> PeftModel:
    """An adapter that changes the answers."""
    torch.manual_seed(0)
    adapted = add_adapter(base(), policy, settings)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    return adapted


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    draw_adapter().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    changed = change(weights)
    save_file(weights if changed is None else changed, file, metadata={"format": "pt"})


def change_settings(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    settings = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({name: value for name, value in settings.items() if value != "missing"}))


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name or "modules_to_save" in name}


def test_an_adapter_comes_back_as_it_was_saved(folder: Path) -> None:
    before, after = weights_of(draw_adapter()), weights_of(load_adapter(base(), read_adapter(str(folder))))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name].to(before[name].dtype)) for name in before)


def drop(end: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        del weights[next(name for name in weights if name.endswith(end))]

    return change


def add_layer(weights: dict[str, torch.Tensor]) -> None:
    weights.update(
        {name.replace(".layers.3.", ".layers.9."): value.clone() for name, value in weights.items()}
    )


def rename_all(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("language_model", "old_name"): value for name, value in weights.items()}


def spoil(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values())).view(-1)[3] = float("nan")


def halve_rank(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:4].clone() if "lora_A" in name else value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            drop("layers.2.mlp.up_proj.lora_B.weight"), r"1 missing: .*up_proj\.lora_B", id="lacks-one"
        ),
        pytest.param(drop("projector.linear.bias"), r"1 missing: .*projector", id="lacks-a-copied-one"),
        pytest.param(add_layer, r"14 unexpected: .*layers\.9\.", id="has-a-layer-more"),
        pytest.param(rename_all, r"56 missing: .*; 56 unexpected: .*old_name", id="matches-nothing"),
        pytest.param(
            halve_rank, r"28 of another shape: .*\(\[4, 128\] for \[8, 128\]\)", id="another-rank"
        ),
        pytest.param(spoil, "is damaged: 1 of its weights hold NaN", id="not-finite"),
    ],
)
def test_an_adapter_that_does_not_fit_whole_is_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    change_weights(folder, change)
    with pytest.raises(UserError, match=message):
        load_adapter(base(), read_adapter(str(folder)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"peft_type": "IA3"}, "expected a LoRA adapter, got peft_type='IA3'", id="not-lora"),
        pytest.param({"peft_type": "missing"}, "expected a LoRA adapter, got peft_type=None", id="no-type"),
        pytest.param({"r": "missing"}, "is incomplete: .* got r=None", id="no-rank"),
        pytest.param({"r": 0}, "is incomplete: .* got r=0", id="rank-0"),
        pytest.param({"lora_alpha": "missing"}, "is incomplete: .* lora_alpha=None", id="no-alpha"),
        pytest.param({"r": 4}, "of another shape", id="another-rank"),
        pytest.param({"target_modules": ["nothing"]}, "does not fit this base", id="unknown-layers"),
        pytest.param({"target_modules": ["q_proj", "fc1"]}, "missing: .*fc1", id="other-layers"),
        pytest.param({"modules_to_save": None}, "2 unexpected: .*projector", id="nothing-copied"),
        pytest.param(
            {"modules_to_save": ["post_layernorm"]}, "missing: .*unexpected: ", id="another-copied"
        ),
        pytest.param({"rank_pattern": 3}, "does not fit this base", id="wrong-type"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    change_settings(folder, **values)
    with pytest.raises(UserError, match=message):
        load_adapter(base(), read_adapter(str(folder)))


def test_a_folder_without_an_adapter_is_an_error(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no adapter: there is no adapter_config\.json"):
        load_adapter(base(), read_adapter(str(tmp_path / "empty")))
    with pytest.raises(UserError, match=rf"Did you mean {folder}\?"):
        load_adapter(base(), read_adapter(str(tmp_path)))
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object, got list"):
        load_adapter(base(), read_adapter(str(folder)))
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_adapter(base(), read_adapter(str(folder)))


def test_a_pickle_is_refused_and_not_read(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin is a pickle, which could run code"):
        load_adapter(base(), read_adapter(str(folder)))
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(UserError, match=r"holds no adapter: there is no adapter_model\.safetensors"):
        load_adapter(base(), read_adapter(str(folder)))


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_weights_that_are_cut_short_are_one_message(folder: Path, length: int) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged"):
        load_adapter(base(), read_adapter(str(folder)))


def test_training_goes_on_with_an_adapter_bit_for_bit(folder: Path) -> None:
    model = add_adapter(base(), TEXT_ONLY, SETTINGS)
    continue_adapter(model, read_adapter(str(folder)))
    before, after = weights_of(draw_adapter()), weights_of(model)
    assert all(torch.equal(before[name], after[name].to(before[name].dtype)) for name in before)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {name for name in after if "original_module" not in name}


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        pytest.param({}, {"r": 4}, r"trained with peft\.r=8, but this run has peft\.r=4", id="rank"),
        pytest.param({}, {"lora_alpha": 16.0}, r"peft\.lora_alpha=8\.0, but", id="alpha"),
        pytest.param({}, {"use_dora": True}, r"peft\.use_dora=False, but", id="dora"),
        pytest.param({}, {"use_rslora": True}, r"peft\.use_rslora=False, but", id="rslora"),
        pytest.param({}, {"target_modules": ["q_proj"]}, "48 unexpected: ", id="fewer-layers"),
        pytest.param({"last_n": 2}, {}, "28 unexpected: ", id="frozen-layers"),
        pytest.param({"vision_tower": "all"}, {}, "24 missing: .*vision_tower", id="more-layers"),
        pytest.param({}, {"modules_to_save": []}, "2 unexpected: .*projector", id="copies"),
        pytest.param({}, {"modules_to_save": ["lm_head"]}, "2 missing: .*lm_head", id="other-copies"),
    ],
)
def test_an_adapter_of_other_settings_is_not_gone_on_with(
    folder: Path, policy: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    own = {**SETTINGS.__dict__, **settings}
    model = add_adapter(base(), FreezePolicy(**{**TEXT_ONLY.__dict__, **policy}), PeftConfig(**own))
    with pytest.raises(UserError, match=message):
        continue_adapter(model, read_adapter(str(folder)))


@pytest.mark.parametrize(
    "setting",
    [{"rank_pattern": {"q_proj": 4}}, {"init_lora_weights": "pissa"}],
    ids=lambda one: next(iter(one)),
)
def test_an_adapter_that_no_option_describes_is_not_gone_on_with(
    folder: Path, setting: dict[str, Any]
) -> None:
    """PiSSA's initial values change the base, too, which nothing in the weights' names shows."""
    change_settings(folder, **setting)
    [(name, value)] = setting.items()
    with pytest.raises(UserError, match=f"it has {name}={value}, for which there is no option"):
        continue_adapter(add_adapter(base(), TEXT_ONLY, SETTINGS), read_adapter(str(folder)))


def test_how_another_program_has_chosen_the_layers_does_not_matter(folder: Path) -> None:
    change_settings(folder, exclude_modules=".*vision_tower.*")
    continue_adapter(add_adapter(base(), TEXT_ONLY, SETTINGS), read_adapter(str(folder)))


def test_dropout_may_differ_in_a_run_that_goes_on(folder: Path) -> None:
    own = {**SETTINGS.__dict__, "lora_dropout": 0.1}
    continue_adapter(add_adapter(base(), TEXT_ONLY, PeftConfig(**own)), read_adapter(str(folder)))


def test_a_plan_checks_the_names_without_memory(folder: Path) -> None:
    model = add_adapter(build_meta_model(load_config("tiny"), torch.bfloat16), TEXT_ONLY, SETTINGS)
    continue_adapter(model, read_adapter(str(folder)))
    change_weights(folder, drop("layers.2.mlp.up_proj.lora_B.weight"))
    with pytest.raises(UserError, match="1 missing"):
        continue_adapter(model, read_adapter(str(folder)))
