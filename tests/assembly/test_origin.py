"""A run knows its base: by name, commit and weights, on the Hub and in a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from finetune.model.load import TINY_BASE
from finetune.model.origin import fingerprint_weights
from tests.conftest import noise_image

if TYPE_CHECKING:
    from tests.hub.client import ConnectedHub

Command = Callable[..., tuple[int, str, str]]

FILES = {file.name: file.read_bytes() for file in TINY_BASE.iterdir() if file.is_file()}
SHORT = (
    "recipe=quickstart", "trainer.global_batch_size=4", "evaluation.limit=4", "trainer.max_steps=1",
    "trainer.dataloader_num_workers=0", "trainer.warmup_steps=0", "evaluation.blank_images=never",
)  # fmt: skip


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noise_image(0).save(tmp_path / "image.png")
    return tmp_path


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, folder / "model.safetensors")


def test_a_run_records_its_base_on_the_hub_and_stays_with_its_commit(
    hub: "ConnectedHub", inside: Path, command: Command
) -> None:
    repository = hub.add("ann/base", FILES)
    first = repository.branches["main"]
    words = (*SHORT, "model=ann/base", "run_name=one", "peft=lora", "trainer.save_steps=1")
    code, out, err = command(*words)
    assert code == 0, err
    assert out.count("looking up ann/base") == 1
    run = inside / "runs/one"
    fingerprint = fingerprint_weights(TINY_BASE)
    expected = {"path": "ann/base", "revision": None, "hub_id": "ann/base", "commit": first}
    assert read(run / "environment.json")["base"] == {**expected, "fingerprint": fingerprint}
    for folder in (run / "adapter", run / "checkpoints/checkpoint-1"):
        settings = read(folder / "adapter_config.json")
        assert (settings["base_model_name_or_path"], settings["revision"]) == ("ann/base", first)
        assert settings["target_modules"] == sorted(settings["target_modules"])
        assert settings["task_type"] is None
        assert settings["auto_mapping"]["base_model_class"] == "PaliGemmaForConditionalGeneration"

    other = shutil.copytree(TINY_BASE, inside / "other")
    other_weights(other)
    hub.add("ann/base", {"model.safetensors": (other / "model.safetensors").read_bytes()})
    predict = ("predict", "image=image.png", "prefix=caption en", "evaluation.max_new_tokens=4")
    code, answer, err = command(*predict, "run=runs/one")
    assert code == 0, err
    code, out, err = command(*words, "resume=true")
    assert code == 0, err
    assert read(run / "environment.json")["base"]["commit"] == first

    # The same adapter by itself: today's commit is not the one that it was trained on.
    by_itself = (*predict, "model=ann/base", "adapter=runs/one/adapter")
    code, _, err = command(*by_itself)
    assert code == 2
    assert f"on ann/base at commit {first[:12]}, but this base is ann/base at commit" in err
    assert f"model=ann/base model.revision={first}" in err
    for same in (f"model.revision={first}", "adapter_base=any"):
        code, out, err = command(*by_itself, same)
        assert code == 0, err
    for path in ("tiny", str(shutil.copytree(TINY_BASE, inside / "copy"))):
        code, out, err = command(*predict, f"model={path}", "adapter=runs/one/adapter")
        assert (code, json.loads(out)) == (0, json.loads(answer)), err
    code, _, err = command(*predict, f"model={other}", "adapter=runs/one/adapter")
    assert code == 2

    # A commit with the same weights: it shows once they are downloaded.
    hub.add("ann/base", {"model.safetensors": FILES["model.safetensors"], "README.md": b"again"})
    code, _, err = command(*by_itself)
    assert code == 0, err


def test_an_adapter_on_the_hub_is_used_and_continued_by_revision(
    hub: "ConnectedHub", inside: Path, command: Command
) -> None:
    code, _, err = command(*SHORT, "run_name=one", "model.hub_id=ann/tiny")
    assert code == 0, err
    run = inside / "runs/one"
    assert read(run / "adapter/adapter_config.json")["base_model_name_or_path"] == "ann/tiny"
    files = {file.name: file.read_bytes() for file in (run / "adapter").iterdir()}
    whole = files | {name: (run / name).read_bytes() for name in ("config.yaml", "environment.json")}
    repository = hub.add("ann/adapter", whole)
    repository.tags["v1"] = repository.branches["main"]
    hub.add("ann/adapter", {"adapter_config.json": b"{}"})
    asked = ("predict", "image=image.png", "prefix=caption en", "evaluation.max_new_tokens=4")
    predict = (*asked, "adapter=ann/adapter", "model=tiny")
    quantized = ("peft=qlora", "adapter_revision=v1")
    code, out, err = command(*predict, *quantized)
    assert code == 0, err
    assert json.loads(out) == json.loads(command(*asked, "run=runs/one")[1])
    code, _, err = command(*predict, "adapter_revision=v1")
    assert code == 2
    assert "with peft.bits=4" in err
    code, _, err = command(*predict, "peft=qlora")
    assert code == 2
    assert "expected a LoRA adapter" in err
    code, _, err = command(*predict, "peft=qlora", "adapter_revision=v9")
    assert code == 2
    assert "has no revision `v9`" in err
    code, _, err = command(*asked, "model=tiny", "adapter_revision=v1")
    assert code == 2
    assert "adapter_revision=v1 is of an adapter on the Hub" in err
    code, out, err = command(*SHORT, "run_name=two", "adapter=ann/adapter", "adapter_revision=v1")
    assert code == 0, err
    assert "continuing the adapter ann/adapter" in out


def test_a_folder_whose_weights_were_replaced_is_noticed(inside: Path, command: Command) -> None:
    base = Path(shutil.copytree(TINY_BASE, inside / "base"))
    words = (*SHORT, "run_name=one", f"model={base}", "trainer.save_steps=1")
    code, _, err = command(*words)
    assert code == 0, err
    assert read(inside / "runs/one/adapter/adapter_config.json")["base_model_name_or_path"] == str(base)
    other_weights(base)
    before = contents(inside / "runs")
    predict = ("predict", "image=image.png", "prefix=caption en", "run=runs/one")
    for refused in (predict, (*words, "resume=true")):
        code, _, err = command(*refused)
        assert code == 2
        assert f"on {base} with weights sha256:" in err
        assert err.count("\n") == 1
    assert contents(inside / "runs") == before
    for allowed in (predict, (*words, "resume=true")):
        code, out, err = command(*allowed, "adapter_base=any")
        assert code == 0, err
        assert "was trained on" in out + err


def test_an_adapter_of_the_version_before_is_still_used(inside: Path, command: Command) -> None:
    code, _, err = command(*SHORT, "run_name=one")
    assert code == 0, err
    run = inside / "runs/one"
    environment, settings = run / "environment.json", run / "adapter/adapter_config.json"
    recorded = read(environment)
    del recorded["base"]
    environment.write_text(json.dumps(recorded))
    former = {"base_model_name_or_path": "/gone/finetune/assets/tiny", "task_type": "CAUSAL_LM"}
    settings.write_text(json.dumps({**read(settings), **former, "auto_mapping": None}))
    code, _, err = command("predict", "run=runs/one", "image=image.png", "prefix=caption en")
    assert code == 0, err
    assert "warning" not in err
