"""Adapters as older versions of transformers and PEFT named their weights and modules."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError
from finetune.model.adapter import load_adapter, read_adapter
from finetune.model.load import load_config, load_model
from finetune.model.lora import add_adapter
from finetune.model.options import FreezePolicy, PeftConfig, Trainable

BOTH_TOWERS = FreezePolicy(Trainable.all, Trainable.none, Trainable.all, last_n=2)


def of_4_41(name: str) -> str:
    """`language_model` is a GemmaForCausalLM, and there is no `model` around the parts."""
    name = name.replace("model.language_model.", "language_model.model.")
    name = re.sub(r"(^|\.)lm_head", r"\1language_model.lm_head", name)
    name = name.replace("model.multi_modal_projector", "multi_modal_projector")
    return name.replace("model.vision_tower.", "vision_tower.vision_model.")


def of_4_52(name: str) -> str:
    """SigLIP has a wrapper of its own."""
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def of_auto_model(name: str) -> str:
    """The parts of `AutoModel`, which has no head."""
    return re.sub(r"model\.(language_model|vision_tower|multi_modal_projector)", r"\1", name)


LAYOUTS = [
    pytest.param(of_4_41, id="4.41"),
    pytest.param(of_4_52, id="4.52"),
    pytest.param(of_auto_model, id="auto-model"),
    pytest.param(str, id="today"),
]
KINDS = [
    pytest.param({}, id="lora"),
    pytest.param({"use_dora": True, "modules_to_save": ["multi_modal_projector"]}, id="dora"),
    pytest.param({"use_rslora": True, "modules_to_save": ["embed_tokens"]}, id="embedding-saved"),
    pytest.param({"modules_to_save": ["vision_tower.post_layernorm"]}, id="norm-saved"),
]


def base() -> PaliGemmaForConditionalGeneration:
    return load_model("tiny", load_config("tiny"))


def draw(options: dict[str, Any]) -> PeftModel:
    torch.manual_seed(0)
    targets = ["q_proj", "up_proj", "fc1"]
    model = add_adapter(base(), BOTH_TOWERS, PeftConfig(target_modules=targets, **options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    return model


def save_in(layout: Callable[[str], str], model: PeftModel, folder: Path, **settings: Any) -> None:
    """Save an adapter as a version of another layout would have."""
    model.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    renamed = {
        "base_model.model." + layout(name.removeprefix("base_model.model.")): value
        for name, value in load_file(file).items()
    }
    save_file(renamed, file, metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    for key in ("target_modules", "modules_to_save"):
        config[key] = config[key] and [layout(name) for name in config[key]]
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name or "modules_to_save" in name}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", KINDS)
def test_an_adapter_of_any_version_is_loaded_whole(
    tmp_path: Path, layout: Callable[[str], str], options: dict[str, Any]
) -> None:
    model = draw(options)
    save_in(layout, model, tmp_path)
    before, after = weights_of(model), weights_of(load_adapter(base(), read_adapter(str(tmp_path))))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name].to(before[name].dtype)) for name in before)


@pytest.mark.parametrize(
    ("last_n", "targets"),
    [
        pytest.param(None, ["q_proj", "up_proj", "fc1"], id="last-parts"),
        pytest.param(None, ".*(q_proj|up_proj|fc1)", id="pattern-of-last-parts"),
        pytest.param(
            2,
            r"language_model\.model\.layers\.[23]\..*(q_proj|up_proj)"
            r"|vision_tower\.vision_model\..*(q_proj|fc1)",
            id="pattern-of-whole-names",
        ),
    ],
)
def test_short_names_and_patterns_choose_the_layers_that_they_chose_then(
    tmp_path: Path, last_n: int | None, targets: str | list[str]
) -> None:
    policy = FreezePolicy(Trainable.all, Trainable.none, Trainable.all, last_n)
    model = add_adapter(base(), policy, PeftConfig(target_modules=["q_proj", "up_proj", "fc1"]))
    save_in(of_4_41, model, tmp_path, target_modules=targets)
    before, after = weights_of(model), weights_of(load_adapter(base(), read_adapter(str(tmp_path))))
    assert before.keys() == after.keys()


def test_ranks_of_single_layers_keep_their_layers(tmp_path: Path) -> None:
    model = draw({})
    pattern = {"language_model.model.layers.3.mlp.up_proj": 4}
    save_in(of_4_41, model, tmp_path, alpha_pattern=pattern)
    adapted = load_adapter(base(), read_adapter(str(tmp_path)))
    scaling = {
        name: module.scaling["default"]
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
    }
    other = [name for name, value in scaling.items() if value != 1.0]
    assert other == ["base_model.model.model.language_model.layers.3.mlp.up_proj"]
    assert scaling[other[0]] == 4 / 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_that_an_older_version_lacks_is_missing(
    tmp_path: Path, layout: Callable[[str], str]
) -> None:
    save_in(layout, draw({"modules_to_save": ["multi_modal_projector"]}), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    gone = [name for name in weights if "layers.3.mlp.up_proj" in name or name.endswith("linear.bias")]
    assert len(gone) == 3
    kept = {name: value for name, value in weights.items() if name not in gone}
    save_file(kept | {"other.lora_A.weight": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"3 missing: .*1 unexpected: other\.lora_A\.weight"):
        load_adapter(base(), read_adapter(str(tmp_path)))
