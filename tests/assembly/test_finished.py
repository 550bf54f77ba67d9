"""What training left is what evaluation reads, and what a further training goes on with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from finetune.assembly.model import freeze_and_adapt, half_dtype, load_base
from finetune.config.compose import compose
from finetune.model.load import TINY_BASE, load_config, load_model

Command = Callable[..., tuple[int, str, str]]

STEPS = (
    "recipe=quickstart", "trainer.global_batch_size=4", "evaluation.limit=6",
    "trainer.dataloader_num_workers=0", "trainer.warmup_steps=0",
)  # fmt: skip
SHORT = (*STEPS, "trainer.max_steps=2")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_scores(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of the training's own last evaluation, and of the last `evaluate`."""
    metrics = json.loads((run / "metrics.json").read_text())
    return metrics["final"], metrics["evaluate"][-1]["scores"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("peft=none", "model.dtype=bfloat16", "freeze=vision"), id="vision-frozen"),
        pytest.param(("peft=none", "model.dtype=bfloat16", "freeze=attention_only"), id="attention"),
        pytest.param(("peft=none", "model.dtype=bfloat16", "model.learning_dtype=bfloat16"), id="bfloat16"),
        pytest.param(("peft.modules_to_save=[embed_tokens]",), id="embedding-saved"),
        pytest.param(("peft=dora", "peft.modules_to_save=[multi_modal_projector]"), id="dora"),
    ],
)
def test_a_run_is_scored_again_with_the_values_that_it_learnt(
    inside: Path, command: Command, words: tuple[str, ...]
) -> None:
    code, out, err = command(*SHORT, "trainer.learning_rate=1e-5", *words)
    assert code == 0, err
    code, _, err = command("evaluate", "run=runs/quickstart", "trainer.dataloader_num_workers=0")
    assert code == 0, err
    trained, again = read_scores(inside / "runs/quickstart")
    assert trained == again
    assert ("1/256" in out) == ("model.learning_dtype=bfloat16" in words)


def test_what_learnt_in_full_is_saved_in_float32_and_the_rest_as_it_was(
    inside: Path, command: Command
) -> None:
    words = ("peft=none", "model.dtype=bfloat16", "freeze=vision", "trainer.learning_rate=1e-5")
    command(*SHORT, *words)
    saved = load_file(inside / "runs/quickstart/model/model.safetensors")
    base = load_file(TINY_BASE / "model.safetensors")
    formats = {tower: {v.dtype for k, v in saved.items() if tower in k} for tower in ("vision", "language")}
    assert formats == {"vision": {torch.bfloat16}, "language": {torch.float32}}
    name = next(key for key in saved if key.endswith("layers.0.mlp.up_proj.weight"))
    assert (saved[name] != base[name].float()).float().mean() > 0.99


def test_what_learns_is_loaded_unrounded_and_what_is_frozen_in_the_models_format(tmp_path: Path) -> None:
    base = load_model("tiny", load_config("tiny"), dtype=torch.float32)
    for parameter in base.parameters():
        parameter.data += 1e-6
    base.save_pretrained(tmp_path)
    words = [f"model.path={tmp_path}", "peft=none", "model.dtype=bfloat16", "freeze=vision"]
    config = compose(["recipe=quickstart", *words])
    half = half_dtype(config.trainer)
    checkpoint = load_config(config.model.path)
    loaded = load_base(checkpoint, config.model, config.freeze, config.peft, half)
    model = freeze_and_adapt(loaded, config.model, config.freeze, config.peft, half, None)
    for name, parameter in model.named_parameters():
        expected = base.get_parameter(name)
        assert torch.equal(parameter, expected if parameter.requires_grad else expected.bfloat16())


def test_training_goes_on_from_an_adapter_and_the_run_says_so(inside: Path, command: Command) -> None:
    code, _, err = command(*SHORT, "run_name=one")
    assert code == 0, err
    first = inside / "runs/one/adapter"
    words = (*STEPS, "run_name=two", f"adapter={first}", "trainer.save_steps=1")
    code, out, err = command(*words, "trainer.max_steps=1", "trainer.learning_rate=1e-12")
    assert code == 0, err
    assert f"continuing the adapter {first}" in out
    one, two = (
        load_file(inside / f"runs/{name}/adapter/adapter_model.safetensors") for name in ("one", "two")
    )
    assert all(torch.allclose(one[name], two[name], atol=1e-9) for name in one)
    assert any("lora_B" in name and one[name].abs().sum() > 0 for name in one)
    assert OmegaConf.load(inside / "runs/two/config.yaml").adapter == str(first)

    code, _, err = command("evaluate", "run=runs/two", "trainer.dataloader_num_workers=0")
    assert code == 0, err
    trained, again = read_scores(inside / "runs/two")
    assert trained == again
    code, _, err = command("evaluate", "run=runs/two", "adapter=runs/one/adapter/")
    assert code == 2
    assert "brings its own adapter" in err


def test_a_resumed_run_must_go_on_from_the_same_adapter(inside: Path, command: Command) -> None:
    command(*SHORT, "run_name=one")
    words = (*SHORT, "run_name=two", "trainer.save_steps=1")
    command(*words, "adapter=runs/one/adapter")
    code, _, err = command(*words, "resume=true")
    assert code == 2
    assert "these differ: adapter" in err
    code, _, err = command(*words, "adapter=runs/one/adapter", "resume=true")
    assert code == 0, err


def test_an_adapter_that_cannot_be_gone_on_with_is_one_message(inside: Path, command: Command) -> None:
    command(*SHORT, "run_name=one")
    before = sorted(inside.rglob("*"))
    for words, message in (
        (("peft=none", "model.dtype=float32"), "with peft=none"),
        (("peft.r=4",), "trained with peft.r=16, but this run has peft.r=4"),
        (("freeze=none",), "missing: "),
    ):
        code, _, err = command(*SHORT, "run_name=two", "adapter=runs/one/adapter", *words)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    code, _, err = command(*SHORT, "run_name=two", "adapter=runs/one/nothing")
    assert code == 2
    assert sorted(inside.rglob("*")) == before


def test_an_adapter_trained_on_nf4_is_refused_on_other_weights_unless_asked_for(
    inside: Path, command: Command
) -> None:
    command(*SHORT, "run_name=one")
    words = (
        "evaluate",
        "recipe=quickstart",
        "evaluation.limit=6",
        "adapter=runs/one/adapter",
        "overwrite=true",
    )
    code, out, err = command(*words)
    assert code == 0, err
    assert "was trained" not in out
    code, _, err = command(*words, "peft.bits=16")
    assert code == 2
    assert (
        "was trained with peft.bits=4 peft.quantize=[language_model] peft.double_quant=true, but here"
        in err
    )
    assert "peft.bits=16" in err
    assert "adapter_base=any" in err
    code, out, err = command(*words, "peft.bits=16", "adapter_base=any")
    assert code == 0, err
    assert "warning: The adapter `runs/one/adapter` was trained with peft.bits=4" in out


def test_without_autocast_the_way_out_is_named(inside: Path, command: Command) -> None:
    words = ("peft=none", "freeze=vision", "trainer.bf16=false")
    code, _, err = command(*SHORT, *words, "model.dtype=bfloat16")
    assert code == 2
    assert "choose model.dtype=float32, or trainer.bf16=true" in err
    code, _, err = command(*SHORT, *words, "model.dtype=float32")
    assert code == 0, err
