"""How long answers may be: settled before training, kept with the run."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from finetune.model.load import load_processor

Command = Callable[..., tuple[int, str, str]]

LONG = "a red circle and a blue square and a green star " * 3


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for name, suffixes in (("train", ["a", LONG * 2]), ("validation", ["a red circle", ["b", LONG]])):
        rows = [
            {"image": "a.png", "prefix": f"caption en {name} {index}", "suffix": suffix}
            for index, suffix in enumerate(suffixes)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


WORDS = (
    "recipe=jsonl_qlora", "model=tiny", "run_name=try", "dataset.train=train.jsonl",
    "dataset.validation=validation.jsonl", "dataset.validation_fraction=null", "metric=any_match",
    "trainer.max_steps=1", "trainer.dataloader_num_workers=0", "evaluation=default",
    "evaluation.metric_for_best_model=null", "collator.max_text_length=512", "trainer.global_batch_size=2",
)  # fmt: skip


def test_the_limit_follows_the_references_and_stands_in_the_runs_config(
    inside: Path, command: Command
) -> None:
    code, out, err = command(*WORDS)
    assert code == 0, err
    limit = OmegaConf.load(inside / "runs/try/config.yaml").evaluation.max_new_tokens
    assert isinstance(limit, int)
    tokens = len(load_processor("tiny").tokenizer(LONG * 2, add_special_tokens=False)["input_ids"]) + 1
    assert limit == math.ceil(1.25 * tokens)
    assert "warning: evaluation.max_new_tokens" not in out
    assert (inside / "runs/try/config.yaml").read_text().startswith("# @package _global_")
    code, out, err = command("evaluate", "run=runs/try", "trainer.dataloader_num_workers=0")
    assert code == 0, err
    assert OmegaConf.load(inside / "runs/try/config.yaml").evaluation.max_new_tokens == limit
    code, out, err = command("predict", "run=runs/try", "image=a.png", "prefix=caption en")
    assert code == 0, err
    code, out, err = command(*WORDS, "resume=true")
    assert code == 0, err


def test_a_limit_that_cuts_references_is_reported_before_training_and_counted_after(
    inside: Path, command: Command
) -> None:
    code, out, err = command(*WORDS, "evaluation.max_new_tokens=1")
    assert code == 0, err
    warning = next(line for line in out.splitlines() if line.startswith("warning: evaluation.max_new"))
    assert "evaluation.max_new_tokens=1 cuts the answers of 2 of 2 validation examples" in warning
    assert "has room for them" in warning
    assert out.index(warning) < out.index("learning: ")
    final = json.loads((inside / "runs/try/metrics.json").read_text())["final"]
    lines = (inside / "runs/try/predictions/validation.jsonl").read_text().splitlines()
    cut = [json.loads(line).get("unfinished", False) for line in lines]
    assert final["unfinished"] == 100 * sum(cut) / len(cut) == 100
