"""Whole runs from the command line, as short as they can be and still be real."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.model.load import TINY_BASE
from finetune.run.lock import MARKER
from finetune.speed import SpeedOptions
from tests.conftest import REPOSITORY, noise_image

Command = Callable[..., tuple[int, str, str]]
Process = Callable[..., subprocess.CompletedProcess[str]]

STEPS = ("recipe=quickstart", "trainer.global_batch_size=4")
SHORT = (*STEPS, "trainer.max_steps=4")
SMALL_EVALUATION = ("evaluation.limit=6", "evaluation.batch_size=4")

WHOLE_RUN = {
    ".finetune",
    "config.yaml",
    "environment.json",
    "metrics.json",
    "train.log",
    "history.jsonl",
    "report.html",
    "report.md",
    "thumbnails",
    "predictions",
    "checkpoints",
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_leaves_its_whole_folder(inside: Path, command: Command) -> None:
    code, out, _ = command(*SHORT, *SMALL_EVALUATION)
    assert code == 0
    run = inside / "runs/quickstart"
    assert {path.name for path in run.iterdir()} == WHOLE_RUN | {"adapter"}
    assert re.search(r"learning: 151,552 of 2,\d\d\d,\d\d\d parameters", out)
    assert "exact_match" in out
    assert "runs/quickstart" in out
    metrics = read(run / "metrics.json")
    assert metrics["final"]["n"] == 6
    assert metrics["train"]["steps"] == 4
    rows = [json.loads(line) for line in (run / "predictions/validation.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert sum(row["score"] for row in rows) / 6 == pytest.approx(metrics["final"]["exact_match"])
    environment = read(run / "environment.json")
    assert environment["command"][:4] == ["python", "-m", "finetune", "train"]
    assert "torch" in environment["packages"]
    assert environment["attention"]["kernel"] == "sdpa"
    assert "model.attention" in (run / "train.log").read_text(encoding="utf-8")
    assert (run / "adapter/adapter_model.safetensors").is_file()
    assert "learning: 151,552" in (run / "train.log").read_text()


def test_a_folder_that_holds_a_run_is_left_alone(inside: Path, command: Command) -> None:
    (inside / "runs/quickstart").mkdir(parents=True)
    (inside / "runs/quickstart" / MARKER).write_text("{}")
    code, _, err = command(*SHORT)
    assert code == 2
    assert "already holds a run" in err
    assert [path.name for path in (inside / "runs/quickstart").iterdir()] == [MARKER]


@pytest.mark.parametrize("method", ["none", "lora", "dora", "rslora", "qlora", "lora_8bit"])
def test_every_method_trains_and_its_result_can_be_scored(
    inside: Path, command: Command, method: str
) -> None:
    words = ["model.dtype=float32"] if method == "none" else []
    code, _, err = command(*SHORT, *SMALL_EVALUATION, f"peft={method}", *words)
    assert code == 0, err
    trained = read(inside / "runs/quickstart/metrics.json")["final"]
    code, _, err = command("evaluate", "run=runs/quickstart")
    assert code == 0, err
    scored = read(inside / "runs/quickstart/metrics.json")["evaluate"][-1]["scores"]
    assert scored["exact_match"] == trained["exact_match"]
    assert scored["loss"] == pytest.approx(trained["loss"], rel=0.02)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused", "sgd", "paged_adamw_8bit"])
def test_optimisers_step(inside: Path, command: Command, optimizer: str) -> None:
    code, _, err = command(*SHORT, *SMALL_EVALUATION, f"trainer.optim={optimizer}")
    assert code == 0, err


EACH_STEP = ("evaluation.strategy=steps", "evaluation.steps=1")


def test_the_best_checkpoint_becomes_the_result(inside: Path, command: Command) -> None:
    # At this rate the loss jumps up and down from step to step.
    words = [*EACH_STEP, "trainer.learning_rate=0.5", "evaluation.metric_for_best_model=loss"]
    code, _, err = command(*STEPS, *SMALL_EVALUATION, "trainer.max_steps=6", *words)
    assert code == 0, err
    metrics = read(inside / "runs/quickstart/metrics.json")
    losses = [entry["loss"] for entry in metrics["evaluations"]]
    assert len(losses) == 6
    assert max(losses) > 1.1 * min(losses)
    assert metrics["final"]["loss"] == pytest.approx(min(losses), rel=1e-3)


def test_checkpoints_are_saved_as_often_as_asked_between_evaluations_that_choose_the_best(
    inside: Path, command: Command
) -> None:
    words = ["evaluation.strategy=steps", "evaluation.steps=4", "evaluation.metric_for_best_model=loss"]
    code, _, err = command(
        *STEPS, *SMALL_EVALUATION, *words, "trainer.max_steps=5", "trainer.save_steps=3",
        "trainer.save_total_limit=null",
    )  # fmt: skip
    assert code == 0, err
    folder = inside / "runs/quickstart"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "checkpoint-3", "checkpoint-4", "checkpoint-5"
    }  # fmt: skip


def test_a_line_of_an_evaluation_is_short_and_the_table_has_all_scores(
    inside: Path, command: Command
) -> None:
    data = ["dataset.train=32", "dataset.validation=2", "trainer.max_steps=1"]
    code, out, err = command("recipe=quickstart_detect", *data, "evaluation=epoch")
    assert code == 0, err
    [line] = [line for line in out.splitlines() if line.startswith("step 1/1  validation  ")]
    assert line.split()[3::2] == ["ap", "ap50", "ap75", "loss", "unfinished"]
    assert len(line) <= 100
    table = [line.split() for line in out.splitlines() if line.startswith("  ap_")]
    assert [row[0] for row in table] == ["ap_small", "ap_medium", "ap_large"]
    assert "-" in {row[1] for row in table}, "digits are not as large as all sizes"


def test_training_stops_when_nothing_improves(inside: Path, command: Command) -> None:
    words = [*EACH_STEP, "trainer.learning_rate=1e-9", "evaluation.metric_for_best_model=exact_match"]
    code, _, err = command(
        *STEPS, *SMALL_EVALUATION, "trainer.max_steps=9", *words, "evaluation.early_stopping_patience=2"
    )
    assert code == 0, err
    assert read(inside / "runs/quickstart/metrics.json")["train"]["steps"] == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.optim=adamw_fast", "adamw_fast"),
        ("trainer.lr_scheduler_type=cosinus", "cosinus"),
        ("+trainer.extra.max_stepz=3", "transformers has no argument max_stepz"),
    ],
)
def test_what_transformers_refuses_is_one_message(
    inside: Path, command: Command, word: str, message: str
) -> None:
    code, _, err = command(*SHORT, word)
    assert code == 2
    assert message in err
    assert not (inside / "runs/quickstart").exists()
    assert "Traceback" not in err


def test_a_base_that_cannot_be_loaded_leaves_no_folder_behind(inside: Path, command: Command) -> None:
    shutil.copytree(TINY_BASE, inside / "base")
    (inside / "base/model.safetensors").write_bytes(b"half")
    code, _, err = command(*SHORT, "model.path=base")
    assert code == 2
    assert "cannot be loaded" in err
    assert not (inside / "runs").exists()


def test_a_runs_config_is_a_recipe_that_gives_the_same_run(inside: Path, command: Command) -> None:
    command(*SHORT, *SMALL_EVALUATION, "overwrite=true")
    code, _, err = command("recipe=runs/quickstart/config.yaml", "run_name=again")
    assert code == 0, err
    first, second = adapter(inside / "runs/quickstart"), adapter(inside / "runs/again")
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = [(inside / "runs" / name / "config.yaml").read_text() for name in ("quickstart", "again")]
    assert configs[0] == configs[1]
    assert "overwrite" not in configs[0]


def test_a_metric_that_is_not_computed_cannot_choose_the_best(inside: Path, command: Command) -> None:
    code, _, err = command(*SHORT, "evaluation.strategy=epoch", "evaluation.metric_for_best_model=accuracy")
    assert code == 2
    assert "the evaluation computes exact_match, confidence, loss" in err


def test_paligemma_2_trains_through_the_same_code(
    inside: Path,
    command: Command,
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    processor: PaliGemmaProcessor,
) -> None:
    model = random_model("gemma2", hidden_size=64, num_layers=2)
    model.save_pretrained(inside / "base")
    processor.save_pretrained(inside / "base")
    words = [f"model={inside / 'base'}", "trainer.activation_checkpointing=true", "freeze=none"]
    code, out, err = command(*SHORT, *SMALL_EVALUATION, *words)
    assert code == 0, err
    assert "vision_tower" in out


def write_vqav2(folder: Path) -> list[str]:
    questions, annotations = [], []
    for number in range(4):
        name = folder / f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(name)
        ids = {"image_id": number, "question_id": number}
        questions.append({**ids, "question": "what color is it?"})
        answers = [{"answer": "red", "answer_id": i} for i in range(10)]
        annotations.append({**ids, "answers": answers, "answer_type": "other"})
    (folder / "q.json").write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    (folder / "a.json").write_text(json.dumps({"annotations": annotations}))
    return vqav2_words(folder / "q.json", folder / "a.json", folder)


def vqav2_words(questions: Path, annotations: Path, image_dir: Path) -> list[str]:
    return [
        f"dataset.{split}.{key}={path}"
        for split in ("train", "validation")
        for key, path in (("questions", questions), ("annotations", annotations), ("image_dir", image_dir))
    ]


def test_vqav2_runs_small_from_six_files_and_warns_that_the_splits_are_one(
    inside: Path, command: Command
) -> None:
    words = write_vqav2(inside)
    code, out, err = command("recipe=vqav2_qlora", "model=tiny", *words, "trainer.max_steps=2")
    assert code == 0, err
    assert "4 of 4 validation examples are also in train" in out
    run = inside / "runs/vqav2_qlora"
    assert {path.name for path in run.iterdir()} == WHOLE_RUN | {"adapter"}
    final = read(run / "metrics.json")["final"]
    assert final["n"] == final["by_group"]["other"]["n"] == 4
    assert 0 <= final["vqa_accuracy"] <= 100


@pytest.mark.parity
def test_vqav2_runs_small_on_a_real_photo_and_its_questions(
    inside: Path, command: Command, parity_data: Path
) -> None:
    folder = parity_data / "images/vqav2"
    words = vqav2_words(folder / "questions.json", folder / "annotations.json", folder)
    code, out, err = command("recipe=vqav2_qlora", "model=tiny", *words, "trainer.max_steps=2")
    assert code == 0, err
    assert "3 of 3 validation examples are also in train" in out
    assert read(inside / "runs/vqav2_qlora/metrics.json")["final"]["n"] == 3


def write_jsonl(folder: Path, count: int = 12, suffix: str = "red") -> None:
    (folder / "img").mkdir()
    lines = []
    for number in range(count):
        Image.new("RGB", (30, 20), (20 * number, 0, 0)).save(folder / f"img/{number}.png")
        row = {"image": f"img/{number}.png", "prefix": "answer en what color?", "suffix": suffix}
        lines.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(lines))


def test_ones_own_pictures_train_with_a_copy_of_the_recipe(inside: Path, command: Command) -> None:
    write_jsonl(inside)
    shutil.copy(REPOSITORY / "recipes/jsonl_qlora.yaml", inside / "mine.yaml")
    code, _, err = command("recipe=mine.yaml", "model=tiny", "trainer.global_batch_size=4")
    assert code == 0, err
    metrics = read(inside / "runs/mine/metrics.json")
    assert metrics["final"]["n"] == 1
    assert len(metrics["evaluations"]) > 1


def test_a_suffix_over_the_budget_stops_before_training_or_is_left_out_and_listed(
    inside: Path, command: Command
) -> None:
    write_jsonl(inside)
    long = {"image": "img/0.png", "prefix": "answer en what color?", "suffix": "red " * 60, "id": "long"}
    with (inside / "train.jsonl").open("a") as file:
        file.write("\n" + json.dumps(long))
    words = [
        "recipe=jsonl_qlora",
        "model=tiny",
        "dataset.validation_fraction=null",
        "dataset.validation=train.jsonl",
        "collator.max_text_length=40",
        "evaluation.limit=2",
        "trainer.max_steps=2",
    ]
    code, _, err = command(*words)
    assert code == 2
    assert re.search(r"1 of 13 train examples are too long: `long` needs \d+ text tokens of 40", err)
    assert not (inside / "runs").exists()
    for overflow in ("drop", "shorten_prefix"):
        code, out, err = command(*words, f"collator.overflow={overflow}", f"run_name={overflow}")
        assert code == 0, err
        assert "left out 1 of 13" in out
        skipped = (inside / f"runs/{overflow}/skipped.jsonl").read_text().splitlines()
        assert json.loads(skipped[0])["id"] == "long"


def test_dropout_in_the_language_model_reaches_the_training(inside: Path, command: Command) -> None:
    losses = []
    for share in ("0", "0.5"):
        name = f"run_name=dropout_{share}"
        code, _, err = command(*SHORT, *SMALL_EVALUATION, f"model.llm_dropout={share}", name)
        assert code == 0, err
        losses.append(read(inside / f"runs/dropout_{share}/metrics.json")["train"]["loss"])
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


def test_a_broken_picture_stops_the_run_by_name_even_from_a_worker(inside: Path, command: Command) -> None:
    write_jsonl(inside)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(inside / "img/3.png")
    # Whole at its beginning and its end, which is all that is read before the training.
    content = (inside / "img/3.png").read_bytes()
    (inside / "img/3.png").write_bytes(content[:60] + bytes(400) + content[460:])
    words = ["recipe=jsonl_qlora", "model=tiny", "trainer.dataloader_num_workers=2"]
    code, _, err = command(*words, "dataset.validation_fraction=0.2")
    assert code == 2
    assert not (inside / "runs/jsonl_qlora").exists()
    assert re.search(r"(^|\n)error: (train|validation) example `4`: image .*3\.png` cannot be decoded", err)
    assert "Traceback" not in err


def test_ones_own_data_set_can_be_plugged_in(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "own_data.py").write_text(
        "from finetune.data.shipped.digits import load_digits\n"
        "def load(count):\n"
        "    splits = load_digits(56)\n"
        "    return splits._replace(train=splits.train.select(range(count)))\n"
    )
    monkeypatch.syspath_prepend(inside)
    words = ["recipe=quickstart", "dataset=custom", "dataset._target_=own_data.load"]
    code, out, err = command(*words, "+dataset.count=9", "trainer.max_steps=1", *SMALL_EVALUATION)
    assert code == 0, err
    assert "9 train and 6 validation examples" in out
    code, _, err = command(*words, "+dataset.cuont=9", "run_name=other")
    assert code == 2
    assert "own_data.load cannot be called" in err


def test_ones_own_task_can_be_plugged_in(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "counted_task.py").write_text(
        "from finetune.tasks.text import TextTask\n"
        "class Counted:\n"
        "    def __init__(self, times):\n"
        "        self.text, self.times = TextTask('{question}', 'answers'), times\n"
        "    def check_columns(self, columns):\n"
        "        self.text.check_columns(columns)\n"
        "    def build_text(self, row, draw=None):\n"
        "        text = self.text.build_text(row, draw)\n"
        "        return text._replace(suffixes=tuple(one * self.times for one in text.suffixes))\n"
        "    measure_text = build_text\n"
        "    def build_target(self, row):\n"
        "        return {'references': list(self.build_text(row).suffixes)}\n"
        "    def read_answer(self, answer, target):\n"
        "        return {'length': len(answer.text)}\n"
    )
    monkeypatch.syspath_prepend(inside)
    words = ["recipe=quickstart", "task=custom", "task._target_=counted_task.Counted"]
    code, _, err = command(*words, "+task.times=3", "trainer.max_steps=1", *SMALL_EVALUATION)
    assert code == 0, err
    lines = (inside / "runs/quickstart/predictions/validation.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        assert row["references"][0] == row["references"][0][0] * 3
        assert row["length"] == len(row["prediction"])
    code, _, err = command(*words, "+task.tmies=3", "run_name=other")
    assert code == 2
    assert "counted_task.Counted cannot be called" in err


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_while_saving_is_one_message(inside: Path, command: Command, full_disk: Path) -> None:
    code, _, err = command(*SHORT, *SMALL_EVALUATION, f"runs_dir={full_disk}")
    assert code == 2
    assert "The disk is full" in err
    assert "Traceback" not in err


def test_a_sweep_leaves_a_whole_folder_for_each_value(inside: Path, command: Command) -> None:
    code, _, err = command("-m", *SHORT, *SMALL_EVALUATION, "peft.r=2,8")
    assert code == 0, err
    for number, rank in enumerate((2, 8)):
        run = inside / f"runs/quickstart_sweep/{number}"
        assert {path.name for path in run.iterdir()} == WHOLE_RUN | {"adapter"}
        assert read(run / "adapter/adapter_config.json")["r"] == rank
        alone = read(run / "environment.json")["command"]
        assert alone[-2:] == [f"peft.r={rank}", f"run_name=quickstart_sweep/{number}"]
        assert "-m" not in alone[3:]
        code, _, err = command("evaluate", f"run=runs/quickstart_sweep/{number}")
        assert code == 0, err


SEARCH = """
import json
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Search(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        values = []
        for number in range(2):
            (job,) = self.launcher.launch([[*arguments, f"trainer.max_steps={number + 1}"]], number)
            values.append(job.return_value)
        json.dump(values, open("values.json", "w"))

node = {"_target_": "hydra_plugins.search.Search"}
ConfigStore.instance().store(group="hydra/sweeper", name="search", node=node, provider="search")
"""


@pytest.mark.slow
def test_a_sweeper_gets_the_objective_of_each_run(tmp_path: Path, process: Process) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/search.py").write_text(SEARCH)
    words = [*STEPS, *SMALL_EVALUATION, "evaluation.metric_for_best_model=loss", *EACH_STEP]
    result = process("-m", *words, "hydra/sweeper=search")
    assert result.returncode == 0, result.stderr
    runs = [tmp_path / f"runs/quickstart_sweep/{number}" for number in range(2)]
    finals = [read(run / "metrics.json")["final"]["loss"] for run in runs]
    assert read(tmp_path / "values.json") == finals
    assert finals[0] != finals[1]


def test_any_model_and_adapter_can_be_scored(inside: Path, command: Command) -> None:
    command(*SHORT, *SMALL_EVALUATION)
    trained = read(inside / "runs/quickstart/metrics.json")["final"]
    words = ["recipe=quickstart", "adapter=runs/quickstart/adapter", "run_name=scored"]
    code, _, err = command("evaluate", *words, *SMALL_EVALUATION)
    assert code == 0, err
    scored = read(inside / "runs/scored/metrics.json")["evaluate"][0]
    assert scored["scores"]["exact_match"] == trained["exact_match"]
    code, _, err = command("evaluate", "recipe=quickstart", "adapter=nowhere/adapter", "run_name=no")
    assert code == 2
    assert "adapter" in err


LONG = ("recipe=quickstart", "trainer.global_batch_size=4", "peft.lora_dropout=0.1")


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter/adapter_model.safetensors")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "finetune", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_adapter_bit_for_bit(inside: Path, command: Command) -> None:
    words = [*LONG, *SMALL_EVALUATION, "trainer.max_steps=24", "trainer.save_steps=5"]
    killed = start(inside, *words)
    wait_for(inside / "runs/quickstart/checkpoints/checkpoint-10/complete", killed)
    killed.kill()
    killed.communicate()
    # What a kill in the middle of saving leaves behind.
    half = inside / "runs/quickstart/checkpoints/checkpoint-23"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    code, out, err = command(*words, "resume=true")
    assert code == 0, err
    assert "checkpoint-23" in out
    code, _, err = command(*words, "run_name=whole")
    assert code == 0, err
    resumed, whole = adapter(inside / "runs/quickstart"), adapter(inside / "runs/whole")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_resume(
    inside: Path, command: Command, number: signal.Signals
) -> None:
    words = [*LONG, *SMALL_EVALUATION, "trainer.max_steps=5000", "trainer.save_steps=3"]
    process = start(inside, *words)
    wait_for(inside / "runs/quickstart/checkpoints/checkpoint-3/complete", process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert f"{number.name}: stopped after step" in out
    resume = out.strip().splitlines()[-1].strip()
    assert resume == f"python -m finetune train {' '.join(words)} resume=true"
    saved = inside / "runs/quickstart/checkpoints"
    last = max(int(path.name.split("-")[1]) for path in saved.iterdir() if (path / "complete").exists())
    assert f"stopped after step {last};" in out
    again = [word for word in resume.split()[3:] if not word.startswith("trainer.max_steps=")]
    code, _, err = command(*again, f"trainer.max_steps={last + 1}")
    assert code == 0, err
    assert read(inside / "runs/quickstart/metrics.json")["train"]["steps"] == last + 1


def test_resuming_a_finished_run_keeps_what_its_training_measured(inside: Path, command: Command) -> None:
    command(*SHORT, *SMALL_EVALUATION)
    before = read(inside / "runs/quickstart/metrics.json")
    code, out, err = command(*SHORT, *SMALL_EVALUATION, "resume=true")
    assert code == 0, err
    assert "had taken all its steps already" in out
    assert read(inside / "runs/quickstart/metrics.json")["train"] == before["train"]


def test_scoring_again_leaves_the_runs_own_result_as_it_was(inside: Path, command: Command) -> None:
    command(*SHORT, *SMALL_EVALUATION)
    run = inside / "runs/quickstart"
    before, rows = read(run / "metrics.json"), (run / "predictions/validation.jsonl").read_bytes()
    code, _, err = command("evaluate", "run=runs/quickstart", "evaluation.num_beams=2")
    assert code == 0, err
    after = read(run / "metrics.json")
    assert after["final"] == before["final"]
    assert "evaluation.num_beams=2" in after["evaluate"][0]["command"]
    assert (run / "predictions/validation.jsonl").read_bytes() == rows
    assert (run / "predictions/validation.evaluate.jsonl").is_file()


def test_a_base_is_scored_in_a_folder_of_its_own(inside: Path, command: Command) -> None:
    command(*SHORT, *SMALL_EVALUATION)
    code, _, err = command("evaluate", "recipe=quickstart", *SMALL_EVALUATION, "overwrite=true")
    assert code == 0, err
    assert (inside / "runs/quickstart/adapter").is_dir()
    assert (inside / "runs/quickstart_evaluate/metrics.json").is_file()


def test_the_command_is_kept_as_it_was_typed(inside: Path, command: Command) -> None:
    write_jsonl(inside)
    shutil.copy(REPOSITORY / "recipes/jsonl_qlora.yaml", inside / "mine.yaml")
    words = ["recipe=mine.yaml", "model=tiny", "trainer.max_steps=1"]
    assert command(*words)[0] == 0
    assert read(inside / "runs/mine/environment.json")["command"][4:] == words


def test_resuming_with_other_settings_is_refused_by_name(inside: Path, command: Command) -> None:
    command(*SHORT, *SMALL_EVALUATION)
    code, _, err = command(*SHORT, *SMALL_EVALUATION, "resume=true", "peft.r=4", "seed=7")
    assert code == 2
    assert "these differ: peft.r, seed" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="float16 is for GPUs")
@pytest.mark.parametrize("job", ["train", "evaluate"])
def test_float16_without_a_gpu_is_refused_in_one_message(inside: Path, command: Command, job: str) -> None:
    code, _, err = command(job, "recipe=quickstart", "trainer.fp16=true", "trainer.bf16=false")
    assert code == 2
    assert "on GPUs alone. Here: trainer.fp16=false trainer.bf16=true." in err
    assert not (inside / "runs").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_resuming_with_other_rows_is_refused(inside: Path, command: Command, split: str) -> None:
    write_jsonl(inside)
    shutil.copy(inside / "train.jsonl", inside / "validation.jsonl")
    words = [
        "recipe=jsonl_qlora", "model=tiny", "trainer.max_steps=1", "dataset.train=train.jsonl",
        "dataset.validation=validation.jsonl", "dataset.validation_fraction=null", "run_name=run",
    ]  # fmt: skip
    assert command(*words)[0] == 0
    file = inside / f"{split}.jsonl"
    file.write_text(file.read_text().replace("red", "blue", 1))
    code, _, err = command(*words, "resume=true")
    assert code == 2
    assert f"the {split} rows are not those that the run was started with" in err


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
         "--standalone", "-m", "finetune", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_as_one_and_share_a_folder(inside: Path, command: Command) -> None:
    words = [
        "recipe=quickstart", "trainer.max_steps=5", "trainer.logging_steps=1", "trainer.bf16=false",
        "model.dtype=float32", "peft=lora", "evaluation.limit=7", "evaluation.batch_size=2",
    ]  # fmt: skip
    two = torchrun(inside, *words, "trainer.global_batch_size=8")
    assert two.returncode == 0, two.stderr
    code, _, err = command(*words, "trainer.global_batch_size=8", "run_name=one")
    assert code == 0, err
    runs = [inside / "runs/quickstart", inside / "runs/one"]
    histories = [read(run / "checkpoints/checkpoint-5/trainer_state.json")["log_history"] for run in runs]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert len(losses[0]) == 5
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    rows = [(run / "predictions/validation.jsonl").read_text().splitlines() for run in runs]
    ids = [[json.loads(line)["id"] for line in lines] for lines in rows]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 7
    scores = [read(run / "metrics.json")["final"] for run in runs]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=1e-4)
    assert (inside / "runs").is_dir()
    assert len(list((inside / "runs").iterdir())) == 2


@pytest.mark.slow
def test_any_division_of_a_step_takes_the_same_steps_with_every_shortcut_or_without(
    inside: Path, command: Command
) -> None:
    noise_image(0, 60, 60).save(inside / "a.png")
    lines = [
        {"image": "a.png", "prefix": "what? " * (1 + n % 11), "suffix": "x " * (n % 7) + "y"}
        for n in range(24)
    ]
    for split in ("train", "valid"):
        (inside / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [
        "recipe=jsonl_qlora", "model=tiny", "dataset.train=train.jsonl", "dataset.validation=valid.jsonl",
        "trainer.global_batch_size=8", "trainer.per_device_train_batch_size=2", "trainer.max_steps=4",
        "trainer.logging_steps=1", "trainer.save_steps=4", "trainer.bf16=false", "model.dtype=float32",
        "peft=lora", "peft.lora_dropout=0", "evaluation=default", "evaluation.limit=2",
        "evaluation.metric_for_best_model=null", "trainer.dataloader_num_workers=0",
    ]  # fmt: skip
    fast = [
        "trainer.speed.compile=true", "trainer.speed.feature_cache=true",
        "trainer.speed.checkpoint_every=2", "model.attention=split_sdpa",
    ]  # fmt: skip
    off = [
        f"trainer.speed.{field.name}=false" for field in fields(SpeedOptions) if "bool" in str(field.type)
    ]
    two = torchrun(inside, *words, *fast, "run_name=two")
    assert two.returncode == 0, two.stderr
    on = re.findall(r"^  (\S+) +on ", two.stdout, re.MULTILINE)
    assert {"compile", "feature_cache", "group_lengths", "last_layer", "model.attention"} <= set(on)
    assert command(*words, "run_name=one")[0] == 0
    assert command(*words, *off, "run_name=plain", "model.attention=sdpa")[0] == 0
    losses = {}
    for name in ("two", "one", "plain"):
        history = read(inside / "runs" / name / "checkpoints/checkpoint-4/trainer_state.json")[
            "log_history"
        ]
        losses[name] = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses["one"]) == 4
    assert losses["one"] == pytest.approx(losses["plain"], rel=1e-6)
    assert losses["two"] == pytest.approx(losses["plain"], rel=1e-6)


@pytest.mark.slow
def test_a_mistake_under_torchrun_ends_all_processes(inside: Path) -> None:
    (inside / "runs/quickstart").mkdir(parents=True)
    (inside / "runs/quickstart" / MARKER).write_text("{}")
    result = torchrun(inside, *SHORT)
    assert result.returncode != 0
    assert result.stderr.count("already holds a run") == 1
    assert "finetune/cli.py" not in result.stderr  # no traceback but torchrun's own


@pytest.mark.slow
def test_the_quickstart_reads_at_least_nine_of_ten_digits(inside: Path, command: Command) -> None:
    code, _, err = command("recipe=quickstart")
    assert code == 0, err
    final = read(inside / "runs/quickstart/metrics.json")["final"]
    assert final["n"] == 297
    assert final["exact_match"] >= 90
    code, _, err = command("evaluate", "recipe=quickstart", "run_name=base")
    assert code == 0, err
    assert read(inside / "runs/base/metrics.json")["evaluate"][0]["scores"]["exact_match"] < 50


def test_several_sources_are_mixed_and_what_is_wrong_in_them_is_listed(
    inside: Path, command: Command
) -> None:
    write_jsonl(inside)
    with (inside / "train.jsonl").open("a") as lines:
        lines.write('\n{"image": "img/0.png", "prefix": "x", "suffix": true}\n')
    words = [
        "dataset=mixture",
        "+dataset@dataset.parts.digits.source=digits",
        "+task@dataset.parts.digits.task=vqa",
        "+dataset@dataset.parts.own.source=jsonl",
        "dataset.parts.own.source.train=train.jsonl",
        "dataset.parts.own.source.validation_fraction=0.4",
        "dataset.parts.own.source.on_error=skip",
        "+dataset.parts.own.weight=500",
        "+task@dataset.parts.own.task=text",
        "model=tiny",
        "trainer.max_steps=2",
        "trainer.limit=40",
        "evaluation.limit=4",
        "run_name=mixed",
    ]
    code, out, err = command(*words)
    assert code == 0, err
    assert "faults left out of the data: 1" in out
    skipped = (inside / "runs/mixed/skipped.jsonl").read_text()
    assert "own: " in skipped
    assert "`suffix` must be a string" in skipped
    rows = (inside / "runs/mixed/predictions/validation.jsonl").read_text().splitlines()
    assert [json.loads(row)["group"] for row in rows] == ["digits", "digits", "own", "own"]
    code, _, err = command("evaluate", "run=runs/mixed", "evaluation.limit=2")
    assert code == 0, err
