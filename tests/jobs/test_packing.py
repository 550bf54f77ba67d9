"""A run on packed rows is the run on padded ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.run.files import read_json
from tests.conftest import noise_image

Command = Callable[..., tuple[int, str, str]]


def test_a_run_takes_the_same_steps_on_packed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    noise_image(0, 60, 60).save(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "prefix": "what? " * (1 + n % 11), "suffix": ["x " * (n % 7) + "y", "no"]}
        for n in range(24)
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [
        "train", "recipe=jsonl_qlora", "model=tiny", "dataset.train=lines.jsonl",
        "dataset.validation=lines.jsonl", "trainer.global_batch_size=8",
        "trainer.per_device_train_batch_size=4", "trainer.max_steps=3", "trainer.logging_steps=1",
        "trainer.save_steps=3", "trainer.bf16=false", "model.dtype=float32", "peft=lora",
        "peft.lora_dropout=0", "evaluation=default", "evaluation.limit=2", "collator.targets=all",
        "evaluation.metric_for_best_model=null", "trainer.dataloader_num_workers=0",
        "model.attention=split_sdpa",
    ]  # fmt: skip
    losses = {}
    for name, packs in (("packed", "true"), ("padded", "false")):
        code, out, error = command(*words, f"run_name={name}", f"trainer.speed.packing={packs}")
        assert code == 0, error
        assert f"packing           {'on ' if packs == 'true' else 'off'}" in out
        state = read_json(tmp_path / "runs" / name / "checkpoints/checkpoint-3/trainer_state.json")
        losses[name] = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses["packed"]) == 3
    assert losses["packed"] == pytest.approx(losses["padded"], rel=1e-6)
