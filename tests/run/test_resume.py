"""A run that is killed, or told to stop, at any moment ends as if nothing had happened."""

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import finetune.assembly.evidence
import finetune.assembly.model
import finetune.jobs.train
import finetune.run.results
import finetune.training.outcome
import finetune.training.trainer
from finetune.data.batches.order import ExampleStream
from finetune.generation.pool import Pool
from finetune.training.trainer import PaliGemmaTrainer
from tests.conftest import noise_image
from tests.jobs.forked import at_call, kill_myself, run_forked

STEPS = [
    "recipe=quickstart", "trainer.save_steps=2", "trainer.global_batch_size=4",
    "trainer.save_total_limit=2", "evaluation.limit=6", "evaluation.batch_size=3",
    "evaluation.strategy=steps", "evaluation.steps=2", "evaluation.metric_for_best_model=exact_match",
]  # fmt: skip

SHORT = [*STEPS, "trainer.max_steps=6"]

METHODS = {
    "none": ["peft=none", "freeze=none"],
    "lora": ["peft=lora", "peft.lora_dropout=0.1"],
    "qlora": ["peft=qlora", "peft.lora_dropout=0.1"],
    "dora": ["peft=dora"],
    "modules_to_save": ["peft=lora", "peft.modules_to_save=[multi_modal_projector]"],
}

TRAIN, TRAINER = finetune.jobs.train, finetune.training.trainer
OUTCOME, RESULTS = finetune.training.outcome, finetune.run.results

MOMENTS: dict[str, tuple[Any, str, int]] = {
    "before the first step": (PaliGemmaTrainer, "_inner_training_loop", 1),
    "in a step before the first checkpoint": (PaliGemmaTrainer, "compute_loss", 2),
    "in the first save": (PaliGemmaTrainer, "_save_optimizer_and_scheduler", 1),
    "before the first seal": (TRAINER, "seal", 1),
    "in a step": (PaliGemmaTrainer, "compute_loss", 4),
    "in an evaluation": (PaliGemmaTrainer, "_determine_best_metric", 2),
    "in a later save": (PaliGemmaTrainer, "_save_rng_state", 2),
    "before old checkpoints go": (TRAINER, "rotate", 3),
    "before the best weights are loaded": (PaliGemmaTrainer, "_load_best_model", 1),
    "before the result is saved": (TRAIN, "save_result", 1),
    "in the final save": (OUTCOME, "write_folder", 1),
    "before the final evaluation is written": (RESULTS, "write_pictures", 1),
    "before the metrics are written": (RESULTS, "write_json", 1),
    "before the report is written": (finetune.assembly.evidence, "write_report", 1),
}

ALL = [(method, moment) for method in METHODS for moment in MOMENTS]
# Every moment and every method, but not each with each.
SOME = [(list(METHODS)[number % len(METHODS)], moment) for number, moment in enumerate(MOMENTS)]


def read(folder: Path) -> tuple[dict[str, torch.Tensor], Any, str]:
    """Return what a run leaves but for times and memory: weights, metrics, predictions."""
    weights = load_file(next(folder.glob("[am]*/*.safetensors")))
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("seconds", "examples_per_second", "peak_memory_gib"):
        del metrics["train"][name]
    return weights, metrics, (folder / "predictions/validation.jsonl").read_text()


def assert_same(one: Path, other: Path) -> None:
    (weights, *rest), (others, *others_rest) = read(one), read(other)
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    assert rest == others_rest


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run each method once from its start to its end."""
    home = tmp_path_factory.mktemp("uninterrupted")

    def get(method: str) -> Path:
        folder = home / method
        if not folder.exists():
            words = [*SHORT, *METHODS[method], f"runs_dir={home}", f"run_name={method}"]
            assert run_forked(words, home / "output") == 0, (home / "output").read_text()
        return folder

    return get


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "moment"),
    [
        pytest.param(
            *case, marks=[] if case in SOME else pytest.mark.exhaustive, id=f"{case[0]}, {case[1]}"
        )
        for case in ALL
    ],
)
def test_a_killed_run_resumes_to_the_same_result(
    inside: Path, uninterrupted: Callable[[str], Path], method: str, moment: str
) -> None:
    words = [*SHORT, *METHODS[method], "run_name=run", "resume=true"]
    code = run_forked(words, inside / "output", partial(at_call, *MOMENTS[moment], kill_myself))
    assert code == -signal.SIGKILL, (inside / "output").read_text()
    assert run_forked(words, inside / "output") == 0, (inside / "output").read_text()
    assert_same(inside / "runs/run", uninterrupted(method))


def kill_my_group(number: signal.Signals) -> None:
    """Send a signal to this process and its data workers, as a scheduler does."""
    os.killpg(os.getpgid(0), number)


SIGNALLED: dict[str, tuple[Any, str, int]] = {
    "while the base is loaded": (finetune.assembly.model, "load_base", 1),
    "in the final save": (OUTCOME, "write_folder", 1),
    "after the final evaluation": (RESULTS, "write_pictures", 1),
    "in a step": (PaliGemmaTrainer, "compute_loss", 3),
    "in an evaluation": (Pool, "step", 3),
    "in a save": (TRAINER, "seal", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", SIGNALLED)
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda one: one.name
)
def test_a_signal_to_the_whole_group_says_how_to_go_on_at_any_moment(
    inside: Path, uninterrupted: Callable[[str], Path], moment: str, number: signal.Signals
) -> None:
    words = [*SHORT, *METHODS["qlora"], "run_name=run", "trainer.dataloader_num_workers=2"]

    def prepare() -> None:
        os.setpgid(0, 0)
        at_call(*SIGNALLED[moment], partial(kill_my_group, number))

    code = run_forked(words, inside / "output", prepare)
    output = (inside / "output").read_text()
    assert code == 128 + number, output
    assert "Traceback" not in output
    assert output.count(number.name) in {1, 2}  # heard, and stopped
    if moment == "while the base is loaded":
        assert "the same command starts again" in output
        assert not (inside / "runs").exists()
    else:
        command = shlex.split(output.strip().splitlines()[-1])
        assert command == ["python", "-m", "finetune", "train", *words, "resume=true"]
        words.append("resume=true")
    assert run_forked(words, inside / "output") == 0, (inside / "output").read_text()
    assert_same(inside / "runs/run", uninterrupted("qlora"))


@pytest.mark.slow
def test_a_fault_in_the_middle_keeps_what_was_trained_and_the_run_goes_on_once_it_is_mended(
    inside: Path,
) -> None:
    (inside / "img").mkdir()
    for number in range(12):
        noise_image(number, 60, 60).save(inside / f"img/{number}.png")
    # Drawn in the third step of two examples each.
    _, number = list(ExampleStream([12], 10, seed=0))[5]
    file = inside / f"img/{number}.png"
    whole = file.read_bytes()
    lines = [{"image": f"img/{n}.png", "prefix": "what?", "suffix": f"{n}"} for n in range(12)]
    (inside / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [
        "recipe=jsonl_qlora", "model=tiny", "dataset.train=train.jsonl", "dataset.validation=train.jsonl",
        "dataset.validation_fraction=null", "trainer.global_batch_size=2", "trainer.max_steps=5",
        "evaluation=default", "evaluation.metric_for_best_model=null", "trainer.dataloader_num_workers=1",
        "peft.lora_dropout=0.1",
    ]  # fmt: skip

    def cut_later() -> None:
        # Whole when the training starts: nothing before could have found it.
        at_call(PaliGemmaTrainer, "train", 1, lambda: file.write_bytes(whole[:-3000]))

    code = run_forked([*words, "run_name=cut"], inside / "output", cut_later)
    output = (inside / "output").read_text()
    assert code == 2
    assert "Traceback" not in output
    assert re.search(
        rf"error: train example `{number + 1}`: image .*{number}\.png` cannot be decoded", output
    )
    # The loader reads one batch ahead.
    assert "Stopped after step 1; its checkpoint is saved" in output
    assert (inside / "runs/cut/checkpoints/checkpoint-1/complete").is_file()
    file.write_bytes(whole)
    assert run_forked([*words, "run_name=cut", "resume=true"], inside / "output") == 0
    assert run_forked([*words, "run_name=whole"], inside / "output") == 0
    assert_same(inside / "runs/cut", inside / "runs/whole")


@pytest.mark.slow
def test_a_run_that_stopped_early_is_not_trained_on_when_it_is_resumed(inside: Path) -> None:
    words = [
        *STEPS, *METHODS["lora"], "run_name=run", "trainer.max_steps=20", "trainer.learning_rate=1e-9",
        "evaluation.early_stopping_patience=2",
    ]  # fmt: skip
    assert run_forked(words, inside / "output") == 0, (inside / "output").read_text()
    before = read(inside / "runs/run")
    assert before[1]["train"]["steps"] == 6
    (inside / "runs/run/metrics.json").unlink()
    assert run_forked([*words, "resume=true"], inside / "output") == 0
    assert read(inside / "runs/run")[1:] == before[1:]


def test_a_run_that_goes_on_keeps_the_card_that_its_user_wrote(inside: Path) -> None:
    words = ["recipe=quickstart", "trainer.global_batch_size=4", "evaluation.limit=6", "run_name=run"]
    assert run_forked([*words, "trainer.max_steps=1"], inside / "output") == 0
    card = inside / "runs/run/adapter/README.md"
    card.write_text("---\nlicense: [\n---\nRead every digit of 1998's forms.\n")
    assert run_forked([*words, "trainer.max_steps=2", "resume=true"], inside / "output") == 0
    assert "Read every digit" in card.read_text()
    assert json.loads((inside / "runs/run/metrics.json").read_text())["train"]["steps"] == 2


def test_resuming_refuses_what_would_start_a_finished_run_again(inside: Path) -> None:
    words = ["recipe=quickstart", "trainer.global_batch_size=4", "evaluation.limit=6", "run_name=run"]
    assert run_forked([*words, "trainer.max_steps=1"], inside / "output") == 0
    shutil.rmtree(inside / "runs/run/checkpoints")
    weights = (inside / "runs/run/adapter/adapter_model.safetensors").read_bytes()
    assert run_forked([*words, "trainer.max_steps=1", "resume=true"], inside / "output") == 2
    assert "has a result" in (inside / "output").read_text()
    assert (inside / "runs/run/adapter/adapter_model.safetensors").read_bytes() == weights


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "adapter_model.safetensors", "rng_state.pth", "scheduler.pt"]
)
def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(
    inside: Path, uninterrupted: Callable[[str], Path], name: str
) -> None:
    words = [*SHORT, *METHODS["qlora"], "run_name=run", "resume=true"]
    stop = partial(at_call, *MOMENTS["before the result is saved"], kill_myself)
    assert run_forked(words, inside / "output", stop) == -signal.SIGKILL
    newest = inside / "runs/run/checkpoints/checkpoint-6" / name
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert run_forked(words, inside / "output") == 0, (inside / "output").read_text()
    reported = f"checkpoint-6 is damaged: {name} is not what was written"
    assert (inside / "output").read_text().count(reported) == 1
    assert_same(inside / "runs/run", uninterrupted("qlora"))


SHORTEST = [
    "recipe=quickstart",
    "evaluation.limit=2",
    "trainer.save_steps=1",
    "trainer.global_batch_size=null",
]


@pytest.mark.parametrize(
    ("first", "again", "refused"),
    [
        ([], ["trainer.speed.group_steps=2"], "trainer.speed.group_steps"),
        (["trainer.speed.group_steps=2"], ["trainer.speed.group_steps=1"], "trainer.speed.group_steps"),
        (
            ["trainer.speed.group_steps=2"],
            ["trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=4"],
            "trainer.gradient_accumulation_steps, trainer.per_device_train_batch_size",
        ),
        (["trainer.speed.group_steps=2"], [], "trainer.max_steps"),
        ([], ["trainer.per_device_train_batch_size=1"], "trainer.per_device_train_batch_size"),
        ([], ["trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=4"], None),
        ([], ["trainer.speed.group_lengths=false", "trainer.speed.packing=false"], None),
    ],
)
def test_a_resumed_run_may_not_change_the_order_of_its_examples(
    inside: Path,
    command: Callable[..., tuple[int, str, str]],
    first: list[str],
    again: list[str],
    refused: str | None,
) -> None:
    batch = ["trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=1"]
    assert command(*SHORTEST, *batch, *first, "trainer.max_steps=1")[0] == 0
    keys = {word.partition("=")[0] for word in again}
    kept = [word for word in [*batch, *first] if word.partition("=")[0] not in keys]
    most = 1 if refused not in (None, "trainer.max_steps") else 2
    code, _, err = command(*SHORTEST, *kept, *again, f"trainer.max_steps={most}", "resume=true")
    if refused is None:
        assert code == 0, err
    else:
        assert code == 2
        assert f"but these differ: {refused}. Leave them as they were" in err


def test_a_resumed_run_has_as_many_processes_unless_its_batch_is_given(
    inside: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    for batch in ("null", "4"):
        words = [*SHORTEST[:-1], f"trainer.global_batch_size={batch}", f"run_name={batch}"]
        assert command(*words, "trainer.max_steps=1")[0] == 0
        file = Path(f"runs/{batch}/environment.json")
        content = json.loads(file.read_text())
        assert content["processes"] == 1
        file.write_text(json.dumps({**content, "processes": 2}))
        code, _, err = command(*words, "trainer.max_steps=2", "resume=true")
        if batch == "null":
            assert code == 2
            assert "2 processes trained, 1 would go on. Without trainer.global_batch_size, steps" in err
        else:
            assert code == 0, err
