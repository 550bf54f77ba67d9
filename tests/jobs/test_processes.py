"""Several processes: the same order, other dropout, one message, and one end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.data.batches.order import ExampleStream
from finetune.data.shipped.digits import load_digits
from tests.conftest import REPOSITORY, break_inside, noise_image

SHORT = [
    "recipe=quickstart", "trainer.global_batch_size=4", "evaluation.limit=4", "trainer.logging_steps=1",
]  # fmt: skip


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
        "--standalone",
    ]  # fmt: skip
    return subprocess.Popen(
        [*launcher, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


@pytest.mark.slow
def test_processes_take_turns_in_one_order_and_drop_different_activations(tmp_path: Path) -> None:
    words = [*SHORT, "trainer.max_steps=2", "model.llm_dropout=0.5"]
    code, output = finish(start(tmp_path, str(REPOSITORY / "tests/jobs/probe.py"), "dropout", ".", *words))
    assert code == 0, output
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["masks"]
    assert not set(ranks[0]["masks"]) & set(ranks[1]["masks"])
    ids = load_digits(56).train["id"]
    stream = [ids[index] for _, index in ExampleStream([1500], 8, seed=0)]
    for step in range(2):
        drawn = sorted(one for rank in ranks for one in rank["ids"][step])
        assert drawn == sorted(stream[4 * step : 4 * step + 4])


@pytest.mark.slow
def test_one_command_starts_goes_on_after_a_killed_process_and_ends(tmp_path: Path) -> None:
    words = [*SHORT, "trainer.max_steps=4", "trainer.save_steps=1", "resume=true"]
    command = [str(REPOSITORY / "tests/jobs/probe.py"), "die_once", ".", *words]
    code, output = finish(start(tmp_path, *command))
    assert code != 0
    assert "starting from the beginning" in output
    code, output = finish(start(tmp_path, *command))
    assert code == 0, output
    metrics: Any = json.loads((tmp_path / "runs/quickstart/metrics.json").read_text())
    assert metrics["train"]["steps"] == 4


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two(tmp_path: Path) -> None:
    words = [
        *SHORT, "peft=lora", "trainer.bf16=false", "model.dtype=float32", "trainer.optim=sgd",
        "trainer.lr_scheduler_type=constant", "trainer.warmup_steps=0", "trainer.save_steps=2",
    ]  # fmt: skip
    alone = [sys.executable, "-m", "finetune"]
    for name, most in (("whole", 4), ("divided", 2)):
        subprocess.run(
            [*alone, *words, f"run_name={name}", f"trainer.max_steps={most}"],
            cwd=tmp_path,
            check=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
        )
    more = ["run_name=divided", "trainer.max_steps=4", "resume=true"]
    code, output = finish(start(tmp_path, "-m", "finetune", *words, *more))
    assert code == 0, output
    whole, divided = (
        load_file(tmp_path / f"runs/{name}/adapter/adapter_model.safetensors")
        for name in ("whole", "divided")
    )
    at_first = load_file(tmp_path / "runs/divided/checkpoints/checkpoint-2/adapter_model.safetensors")
    for name, weight in whole.items():
        assert torch.allclose(weight, divided[name], rtol=1e-4, atol=1e-7), name
    assert any(
        not torch.allclose(weight, at_first[name], rtol=1e-4, atol=1e-7) for name, weight in whole.items()
    )


@pytest.mark.slow
def test_a_fault_in_one_process_is_reported_once_and_all_save(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for number in range(12):
        noise_image(number, 60, 60).save(tmp_path / f"img/{number}.png")
    lines = [{"image": f"img/{n}.png", "prefix": "what?", "suffix": f"{n}"} for n in range(12)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "valid.jsonl").write_text(json.dumps(lines[0]))
    # Drawn by the second process in the fourth step of two examples.
    number = [index for _, index in ExampleStream([12], 12, seed=0)][7]
    break_inside(tmp_path / f"img/{number}.png")
    words = [
        "recipe=jsonl_qlora", "model=tiny", "dataset.train=train.jsonl", "dataset.validation=valid.jsonl",
        "trainer.global_batch_size=2", "trainer.max_steps=6", "evaluation=default",
        "evaluation.metric_for_best_model=null", "trainer.dataloader_num_workers=0",
    ]  # fmt: skip
    code, output = finish(start(tmp_path, "-m", "finetune", *words))
    assert code != 0
    assert output.count("error: ") == 1
    assert f"img/{number}.png` cannot be decoded" in output
    assert "its checkpoint is saved" in output
    assert f"{REPOSITORY}/finetune" not in output  # no traceback but torchrun's own
    assert list((tmp_path / "runs/jsonl_qlora/checkpoints").glob("checkpoint-*/complete"))


@pytest.mark.slow
def test_the_main_process_checks_the_rows_and_the_other_one_reads_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lines = []
    for number, suffix in enumerate([*"abcdefgh", "<eos>", "much " * 500]):
        noise_image(number).save(tmp_path / f"{number}.png")
        lines.append({"image": f"{number}.png", "prefix": "what?", "suffix": suffix})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [
        "recipe=jsonl_qlora", "model=tiny", "dataset.train=train.jsonl", "dataset.validation=null",
        "dataset.validation_fraction=0.3", "dataset.on_error=skip", "trainer.global_batch_size=2",
        "collator.overflow=drop", "trainer.max_steps=1", "trainer.dataloader_num_workers=0",
    ]  # fmt: skip
    command = [str(REPOSITORY / "tests/jobs/probe.py"), "inspection", ".", *words]
    code, output = finish(start(tmp_path, *command))
    assert code == 0, output
    assert [file.name for file in tmp_path.glob("inspected*")] == ["inspected0"]


@pytest.mark.slow
def test_a_signal_that_kills_the_launcher_still_saves(tmp_path: Path) -> None:
    words = [*SHORT, "trainer.max_steps=5000", "trainer.save_steps=2"]
    process = start(tmp_path, "-m", "finetune", *words)
    first = tmp_path / "runs/quickstart/checkpoints/checkpoint-2/complete"
    for _ in range(600):
        if first.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)  # torchrun does not know it
    _, output = finish(process)  # its pipe closes when the last of its processes has ended
    assert "stopped after step" in output, output
    assert "resume=true" in output
