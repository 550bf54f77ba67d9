"""One model of a run: loaded without PEFT, with the run's answers, or nothing at all."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors.torch import load_file

import finetune
from finetune.cli import main
from finetune.jobs import merge as job
from finetune.model.merge import merge

Command = Callable[..., tuple[int, str, str]]
Usage = namedtuple("Usage", "total used free")

SMALL = ["trainer.dataloader_num_workers=0", "trainer.max_steps=6", "evaluation.limit=24"]
RUNS = {
    "quickstart": [],
    "saved": ["peft=lora", "peft.modules_to_save=[embed_tokens]", "run_name=saved"],
    "full": ["peft=none", "run_name=full"],
}

PLAIN = """
import json, sys
# What is None here cannot be imported, and transformers does not find it.
sys.modules |= dict.fromkeys(["peft", "finetune", "bitsandbytes"])
from PIL import Image
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor, pipeline
folder, images = sys.argv[1], sys.argv[2:]
model = PaliGemmaForConditionalGeneration.from_pretrained(folder)
processor = PaliGemmaProcessor.from_pretrained(folder)
texts = []
for image in images:
    prompt = "<image>answer en which digit is this?"
    inputs = processor(text=prompt, images=Image.open(image), return_tensors="pt").to(model.dtype)
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    texts.append(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
ask = pipeline("image-text-to-text", model=folder)
piped = ask(Image.open(images[0]), text="<image>answer en which digit is this?", max_new_tokens=4)
print(json.dumps([texts, piped[0]["generated_text"], str(model.dtype), bool(sys.modules["peft"])]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in RUNS.values():
            assert main(["recipe=quickstart", *SMALL, *words]) == 0
    return folder


@pytest.fixture
def inside(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_json(file: Path) -> Any:
    return json.loads(file.read_text())


def read_predictions(run: str) -> list[str]:
    rows = Path("runs", run, "predictions/validation.jsonl").read_text().splitlines()
    return [json.loads(row)["prediction"] for row in rows]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("quickstart", ["dtype=float32"]),
        ("quickstart", ["into=original", "dtype=float32"]),
        ("saved", []),
        ("full", ["dtype=float32"]),
    ],
)
def test_the_command_that_is_printed_gives_the_runs_answers(
    run: str, words: list[str], inside: Path, command: Command
) -> None:
    code, _, err = command("merge", f"run=runs/{run}", "out=out", "examples=3", *words)
    assert (code, "Traceback" in err) == (0, False), err
    [line] = [line for line in err.splitlines() if line.startswith("score it: ")]
    code, _, err = command(*shlex.split(line)[5:])
    assert code == 0, err
    alike = [a == b for a, b in zip(read_predictions(run), read_predictions("out_evaluate"), strict=True)]
    # Six steps leave answers near to each other, and another base is another model.
    assert sum(alike) >= (12 if "into=original" in words else 22)


@pytest.mark.slow
def test_plain_transformers_answers_like_the_run(inside: Path) -> None:
    result = finetune.merge(run="runs/saved", out="out", dtype="float32")
    assert result.folder == inside / "out"
    assert (result.examples, result.agreement) == (8, 100.0)
    assert 0 < result.difference < 1e-3
    model = finetune.load(run="runs/saved")
    images = []
    for number in range(4):
        images.append(f"{number}.png")
        Image.effect_noise((56, 56), 20 * number + 10).save(images[-1])
    answers = [model.ask(image, "answer en which digit is this?")["prediction"] for image in images]
    words = [sys.executable, "-c", PLAIN, "out", *images]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    texts, piped, dtype, loaded_peft = json.loads(done.stdout.splitlines()[-1])
    assert texts == answers
    assert piped.endswith(answers[0])
    assert (dtype, loaded_peft) == ("torch.float32", False)


def test_a_merged_model_says_where_it_comes_from(inside: Path, command: Command) -> None:
    (inside / "runs/quickstart/mask_vae.npz").write_bytes(b"codes")
    assert command("merge", "run=runs/quickstart", "out=deep/out", "examples=2")[0] == 0
    out = inside / "deep/out"
    names = {
        "config.json", "generation_config.json", "model.safetensors", "processor_config.json",
        "tokenizer.json", "tokenizer_config.json", "mask_vae.npz", "merge.json", "README.md",
        ".finetune-merge",
    }  # fmt: skip
    assert {file.name for file in out.iterdir()} == names
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert "quantization_config" not in read_json(out / "config.json")
    facts = read_json(out / "merge.json")
    assert facts["run"] == str(inside / "runs/quickstart")
    assert (facts["bits"], facts["into"], facts["dtype"]) == (4, "quantized", "bfloat16")
    assert facts["adapter_sha256"] == read_json(inside / "runs/quickstart/metrics.json")["result"]["sha256"]
    assert facts["compared_with"] == "2 validation examples"
    assert facts["logits"]["relative"] < facts["logits"]["tolerance"]


def test_an_adapter_without_a_run_is_compared_on_noise(inside: Path, command: Command) -> None:
    shutil.copytree("runs/quickstart/adapter", "adapter")
    code, _, err = command(
        "merge", "model=tiny", "adapter=adapter", "peft=qlora", "out=out", "examples=2", "trainer.bf16=true"
    )
    assert code == 0, err
    assert "logits of 2 images of noise" in err
    assert "score it" not in err


def test_the_data_may_be_gone(inside: Path, command: Command) -> None:
    config = Path("runs/saved/config.yaml")
    text = config.read_text().replace("override /dataset: digits", "override /dataset: jsonl")
    config.write_text(
        text.replace("dataset:\n  size: 56", "dataset:\n  train: a.jsonl\n  validation: b.jsonl")
    )
    code, _, err = command("merge", "run=runs/saved", "out=out", "examples=2")
    assert code == 0, err
    assert "the validation data cannot be read" in err
    assert "logits of 2 images of noise" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run=runs/quickstart", "Where to? out=FOLDER"),
        ("out=out model=tiny", "What is merged? run=FOLDER"),
        ("run=runs/none out=out", "runs/none"),
        ("run=runs/empty out=out", "runs/empty"),
        ("run=runs/quickstart out=file", "file is not a folder"),
        ("run=runs/quickstart out=mine", "`merge` did not write what is in it"),
        ("run=runs/quickstart out=mine overwrite=true", "`merge` did not write what is in it"),
        ("run=runs/quickstart out=runs/quickstart", "did not write what is in it"),
        ("run=runs/quickstart out=runs/quickstart/merged", "are one folder, or one is inside the other"),
        ("run=runs/saved out=out into=original", "these have 16 bits: leave it out"),
        ("run=runs/quickstart out=out dtype=int8", "dtype"),
        ("run=runs/quickstart out=out into=gguf", "into"),
        ("run=runs/quickstart out=out peft=lora", "the run's adapter is fixed"),
        ("run=runs/quickstart out=out examples=0", "examples"),
        ("run=runs/quickstart out=out trainer.learning_rate=1", "has no effect on `merge`"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    words: str, message: str, inside: Path, command: Command
) -> None:
    (inside / "runs/empty").mkdir()
    (inside / "mine").mkdir()
    (inside / "mine/model.safetensors").write_text("mine")
    (inside / "file").write_text("mine")
    before = {file: file.stat().st_mtime_ns for file in inside.rglob("*") if file.is_file()}
    code, out, err = command("merge", *words.split())
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
    assert {file: file.stat().st_mtime_ns for file in inside.rglob("*") if file.is_file()} == before


def test_an_adapter_that_does_not_fit_or_was_changed_is_refused(inside: Path, command: Command) -> None:
    file = inside / "runs/saved/adapter/adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = command("merge", "run=runs/saved", "out=out")
    assert (code, "is not what the run wrote" in err) == (2, True)
    code, _, err = command("merge", "model=tiny", "adapter=runs/full/model", "out=out")
    assert (code, "adapter_config.json" in err) == (2, True)
    assert not (inside / "out").exists()


def test_an_earlier_merge_is_replaced_with_overwrite(inside: Path, command: Command) -> None:
    words = ["merge", "run=runs/saved", "out=out", "examples=1"]
    assert command(*words)[0] == 0
    (inside / "out/notes.txt").write_text("mine")
    code, _, err = command(*words)
    assert (code, "overwrite=true" in err) == (2, True)
    assert command(*words, "dtype=float32", "overwrite=true")[0] == 0
    assert read_json(inside / "out/merge.json")["dtype"] == "float32"
    assert (inside / "out/notes.txt").read_text() == "mine"


def test_a_small_disk_is_refused_before_anything_is_loaded(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 1_000_000))
    monkeypatch.setattr(job, "load_trained", None)
    code, _, err = command("merge", "run=runs/saved", "out=out")
    assert code == 2
    assert "needs 0.00 GiB, and its disk has 0.00 GiB left" in err


def test_a_disk_that_fills_up_leaves_nothing(inside: Path, command: Command) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        code, _, err = command("merge", "run=runs/saved", "out=out", "examples=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert "The disk is full, or a quota" in err
    assert not list(inside.glob("*out*"))


def test_a_merge_that_computes_something_else_leaves_nothing(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def merge_half(model: Any, dtype: torch.dtype) -> Any:
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.scaling = {name: value / 2 for name, value in module.scaling.items()}
        return merge(model, dtype)

    monkeypatch.setattr(job, "merge", merge_half)
    code, _, err = command("merge", "run=runs/quickstart", "out=out", "examples=1")
    assert code == 2
    assert "The merge is wrong: 28 of " in err
    assert not list(inside.glob("*out*"))
