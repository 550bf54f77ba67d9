"""Adapters in a process without this project: peft and transformers find the base by themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from transformers import PaliGemmaProcessor

from finetune.assembly.model import load_base
from finetune.data.batches.collator import Collator
from finetune.example import Example
from finetune.model.adapter import load_adapter, name_base, read_adapter
from finetune.model.load import TINY_BASE, load_config, load_processor
from finetune.model.lora import add_adapter
from finetune.model.options import FreezePolicy, ModelConfig, PeftConfig, PeftMethod, Trainable
from finetune.model.origin import find_origin, pin_revision
from tests.conftest import noise_image, plain_inputs

if TYPE_CHECKING:
    from tests.hub.client import ConnectedHub

FILES = {file.name: file.read_bytes() for file in TINY_BASE.iterdir() if file.is_file()}
PROMPT = "answer en what is it?"
TEXT_ONLY = FreezePolicy(Trainable.none, Trainable.none, Trainable.all)
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True, "modules_to_save": ["multi_modal_projector"]},
    "qlora": {"bits": 4},
    "embedding": {"modules_to_save": ["embed_tokens"]},
}


def make_adapter(kind: str, model: ModelConfig, folder: Path) -> None:
    """Save an adapter that changes the answers, as a run does."""
    torch.manual_seed(list(KINDS).index(kind))
    peft = PeftConfig(PeftMethod.lora, **KINDS[kind])
    base = load_base(load_config(model.path, model.revision), model, TEXT_ONLY, peft, None)
    adapted = add_adapter(base, TEXT_ONLY, peft)
    name_base(adapted, find_origin(model))
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.requires_grad:
            parameter.data += 0.01
    adapted.save_pretrained(folder)
    load_processor("tiny").save_pretrained(folder)


def ask(kind: str, model: ModelConfig, folder: Path | None, images: list[str]) -> list[str]:
    """Ask as this project does; without a folder, the base."""
    peft = PeftConfig(PeftMethod.lora, **KINDS[kind])
    base = load_base(load_config("tiny"), model, TEXT_ONLY, peft, None)
    adapted = base if folder is None else load_adapter(base, read_adapter(str(folder)))
    processor = load_processor("tiny")
    answers = []
    for file in images:
        inputs = processor(text=f"<image>{PROMPT}", images=Image.open(file), return_tensors="pt")
        tokens = adapted.generate(**inputs.to(base.dtype), max_new_tokens=8, do_sample=False)
        answers.append(
            processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    return answers


def ask_plainly(
    jobs: list[dict[str, Any]], hub: "ConnectedHub", folder: Path
) -> list[dict[str, list[str]]]:
    (folder / "jobs.json").write_text(json.dumps(jobs))
    words = [sys.executable, str(Path(__file__).with_name("plain.py")), "jobs.json", "answers.json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | hub.env
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[dict[str, list[str]]] = json.loads((folder / "answers.json").read_text())
    return answers


@pytest.mark.parametrize("size", [(90, 60), (33, 71), (56, 56)])
def test_the_processor_next_to_an_adapter_makes_the_same_inputs(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    load_processor("tiny").save_pretrained(tmp_path)
    plain = PaliGemmaProcessor.from_pretrained(tmp_path, backend="pil")
    image = noise_image(3, *size)
    given = plain(text=f"<image>{PROMPT}", images=image, return_tensors="pt")
    ours = Collator(load_processor("tiny")).build_prompts([Example("one", (image,), PROMPT, ())])
    for name, values in plain_inputs(ours).items():
        assert torch.equal(given[name], values), name


def test_plain_peft_and_transformers_answer_as_the_run_does(hub: "ConnectedHub", tmp_path: Path) -> None:
    repository = hub.add("ann/base", FILES)
    model = pin_revision(ModelConfig("ann/base"))
    images = []
    for seed in range(4):
        noise_image(seed, 90, 60).save(tmp_path / f"{seed}.png")
        images.append(str(tmp_path / f"{seed}.png"))
    jobs: list[dict[str, Any]] = []
    expected = []
    for kind in KINDS:
        bits = KINDS[kind].get("bits", 16)
        used = ModelConfig(model.path, model.revision, dtype="bfloat16" if bits == 4 else "float32")  # type: ignore[arg-type]
        make_adapter(kind, used, tmp_path / kind)
        # On the Hub the adapter is not next to the base, and knows it by name and commit alone.
        hub.add(f"ann/{kind}", {f.name: f.read_bytes() for f in (tmp_path / kind).iterdir() if f.is_file()})
        answers = ask(kind, used, tmp_path / kind, images)
        assert answers != ask(kind, used, None, images)
        common = {"bits": bits, "dtype": used.dtype, "images": images, "prompt": PROMPT}
        jobs += [{"adapter": place, **common} for place in (f"ann/{kind}", str(tmp_path / kind))]
        expected += [answers] * 2
    # The branch moves on: other weights, which the adapters do not name.
    hub.add("ann/base", {"model.safetensors": b"not these"})
    assert repository.branches["main"] != model.revision
    for job, given, right in zip(jobs, ask_plainly(jobs, hub, tmp_path), expected, strict=True):
        assert given == {"AutoPeftModel": right, "PeftModel": right}, job["adapter"]
