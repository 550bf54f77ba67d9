"""A training that does not fit into the memory says what would, and keeps what it has."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.assembly import costs
from finetune.model.cache import RowCache
from finetune.model.decoder import Decoder
from finetune.model.forward import compute_losses
from finetune.training import trainer
from tests.jobs.forked import at_call, run_forked

Command = Callable[..., tuple[int, str, str]]

SMALL = [
    "recipe=quickstart", "trainer.limit=64", "trainer.max_steps=4", "evaluation.limit=2",
    "trainer.dataloader_num_workers=0", "trainer.save_steps=1",
]  # fmt: skip


def allocate_too_much() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def test_the_message_names_settings_that_fit_and_the_run_continues_with_them(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(costs, "device_bytes", lambda: 10**11)  # more than this process has
    with monkeypatch.context() as broken:
        broken.setattr(trainer, "compute_losses", compute_losses)
        at_call(trainer, "compute_losses", 3, allocate_too_much)
        code, _, err = command("train", *SMALL)
    assert code == 2
    assert "Out of memory in step 3: " in err
    assert "you tried to allocate 1152921504606846976 bytes" in err
    assert "The checkpoint of step 2 is kept" in err
    words = next(line for line in err.splitlines() if line.startswith("  trainer.")).split()
    assert any(word.startswith("trainer.per_device_train_batch_size=") for word in words) or (
        "trainer.activation_checkpointing=true" in words
    )
    code, out, err = command("train", *SMALL, *words, "resume=true")
    assert code == 0, err
    assert "step 4/4" in out
    environment = json.loads(Path("runs/quickstart/environment.json").read_text())
    assert environment["training"]["predicted_peak_memory_gib"] > 0


def test_a_first_step_that_does_not_fit_leaves_no_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer, "compute_losses", lambda *_, **__: allocate_too_much())
    code, _, err = command("train", *SMALL)
    assert code == 2
    assert "There is no checkpoint yet" in err
    assert not list(tmp_path.glob("runs/*/adapter"))


def test_an_evaluation_that_does_not_fit_answers_fewer_prompts_at_once(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read, limit = Decoder.read_tokens, [4]

    def fail(self: Decoder, tokens: Tensor, cache: RowCache) -> Tensor:
        if len(tokens) > limit[0]:
            allocate_too_much()
        return read(self, tokens, cache)

    monkeypatch.setattr(Decoder, "read_tokens", fail)
    words = [word for word in SMALL if not word.startswith("evaluation.")]
    words += ["evaluation.limit=8", "evaluation.batch_size=8", "evaluation.strategy=epoch"]
    code, out, err = command("train", *words)
    assert code == 0, err
    assert "out of memory with 8 prompts at once: 4 from now on (evaluation.batch_size)" in out + err
    limit[0] = 0
    code, _, err = command("train", *words, "overwrite=true")
    assert code == 2
    assert "too little memory for a single prompt" in err
    assert "Stopped after step 2; its checkpoint is saved" in err
    assert "resume=true" in err


@pytest.mark.slow
def test_a_process_that_may_not_have_more_memory_says_so(tmp_path: Path) -> None:
    def limit() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
        torch.empty(2**26, dtype=torch.uint8)  # as an activation that has no room

    def prepare() -> None:
        at_call(trainer, "compute_losses", 2, limit)

    output = tmp_path / "output.txt"
    words = [*SMALL, f"runs_dir={tmp_path}", "trainer.global_batch_size=64"]
    words.append("trainer.per_device_train_batch_size=64")
    assert run_forked(["train", *words], output, prepare) == 2, output.read_text()
    assert "Out of memory in step 2" in output.read_text()
    assert "Traceback" not in output.read_text()
