"""Every tracker gets the same: read back by the reader of its own library."""

import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.run.results import Predictions
from finetune.run.trackers.options import NAMES
from finetune.run.trackers.several import Trackers
from tests.conftest import noise_image
from tests.run.trackers.readers import Recorded, read_tensorboard, read_trackio, read_wandb

Command = Callable[..., tuple[int, str, str]]
Build = Callable[..., Trackers]

INSTALLED = [name for name in NAMES if find_spec(name)]


def read(name: str, folder: Path, project: str, run: str) -> Recorded:
    if name == "trackio":
        return read_trackio(project, run)
    return {"tensorboard": read_tensorboard, "wandb": read_wandb}[name](folder)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """A tracker that is installed."""
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of the package reach `caplog`; an earlier command switched it off."""
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)


def test_curves_tables_settings_and_final_scores_are_read_back(
    name: str, build: Build, folder: Path, predictions: Predictions
) -> None:
    trackers = build(name, project=f"back-{name}")
    trackers.check()
    with trackers.running():
        for step in (1, 2):
            trackers.log(step, {"loss": 2.5 / step, "epoch": 0.5})
            trackers.log(step, {"eval_exact_match": step / 2})
            trackers.show(step, predictions)
        trackers.log(2, {"train_runtime": 1.5})
        trackers.report(2, {"exact_match": 0.5, "by_group": {"a": {"exact_match": 1.0}}}, predictions)
    found = read(name, folder, f"back-{name}", "mine")
    assert [point for point in found.scalars["train/loss"] if point[0] > 0] == [(1, 2.5), (2, 1.25)]
    assert [point for point in found.scalars["eval/exact_match"] if point[0] > 0] == [(1, 0.5), (2, 1)]
    assert found.scalars["final/exact_match"][-1][1] == 0.5
    assert found.scalars["train_runtime"][-1][1] == 1.5
    assert not any("by_group" in curve for curve in found.scalars)
    assert len(found.tables["predictions"]) == 2
    for rows, images in (*found.tables["predictions"], *found.tables["final/predictions"]):
        texts = [(row["prompt"], row["prediction"], row["reference"]) for row in rows]
        assert texts[:2] == [("which?", "7", "7 | seven"), ("detect cat", "", "cat")]
        assert [" ".join(text.split()) for text in texts[2]] == ["|a", "<b> **x**", "[y](z)"]
        assert images[0].convert("RGB").tobytes() == noise_image(0).tobytes()
        assert images[1].size != noise_image(1).size, "enlarged, with the box drawn"
    if name == "tensorboard":
        assert "answer &lt;en&gt;" in found.settings["text"]
        assert found.settings["peft.r"] == 16
    else:
        assert found.settings["peft"] == {"r": 16}
        assert found.settings["environment"] == {"commit": "abc"}
    assert "hf_secret" not in str(found.settings)


@pytest.mark.parametrize("most", [0, 2])
def test_the_rows_of_the_table_are_an_option(
    build: Build, folder: Path, predictions: Predictions, most: int
) -> None:
    trackers = build("tensorboard", predictions=most)
    trackers.check()
    with trackers.running():
        trackers.show(1, predictions)
    tables = read_tensorboard(folder).tables
    assert [len(rows) for rows, _ in tables.get("predictions", [])] == [most] * (most > 0)


def test_one_run_goes_to_several_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["trainer.max_steps=4", "trainer.global_batch_size=4", "evaluation.limit=3"]
    words += [
        "evaluation=epoch",
        "evaluation.strategy=steps",
        "evaluation.steps=2",
        "tracker.predictions=2",
    ]
    chosen = f"tracker=[{', '.join(INSTALLED)}]"
    code, out, err = command("recipe=quickstart", *words, chosen, "tracker.project=whole")
    assert code == 0, err
    folder = tmp_path / "runs/quickstart"
    final = json.loads((folder / "metrics.json").read_text())["final"]
    for name in INSTALLED:
        found = read(name, folder, "whole", "quickstart")
        assert found.scalars["final/loss"][-1][1] == pytest.approx(final["loss"])
        assert [len(rows) for rows, _ in found.tables["predictions"]] == [2, 2]
        assert [len(images) for _, images in found.tables["final/predictions"]] == [2]
    assert out.count("curves: ") == len(INSTALLED)

    code, out, err = command(
        "recipe=quickstart",
        *words[1:],
        "trainer.max_steps=6",
        chosen,
        "tracker.project=whole",
        "resume=true",
    )
    assert code == 0, err
    steps = [step for step, _ in read_tensorboard(folder).scalars["eval/loss"]]
    assert steps == [2, 4, 6]
    code, _, err = command("recipe=quickstart", *words, "tracker=none", "overwrite=true")
    assert code == 0, err
    assert not (folder / "tensorboard").exists()
    assert not (folder / "wandb").exists()


class Failing:
    """A tracker that fails in one method."""

    name = "failing"

    def __init__(self, method: str) -> None:
        self.method = method
        self.calls: list[str] = []

    def __getattr__(self, called: str) -> Callable[..., Any]:
        def call(*args: object) -> str:
            self.calls.append(called)
            if called == self.method:
                raise OSError(28, "No space left on device")
            return "advice." if called == "advise" else "somewhere"

        return call


@pytest.mark.parametrize("method", ["open", "log", "show", "summarize", "close"])
def test_a_tracker_that_fails_costs_one_warning_and_nothing_else(
    build: Build,
    folder: Path,
    predictions: Predictions,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    failing = Failing(method)
    trackers = build("tensorboard")
    trackers._chosen.insert(0, failing)
    trackers.check()
    with trackers.running():
        for step in (1, 2):
            trackers.log(step, {"loss": 2.5})
            trackers.show(step, predictions)
        trackers.report(2, {"exact_match": 0.5}, predictions)
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "No space left on device" in warning
    assert "the run continues without it" in warning
    assert failing.calls.count(method) == 1
    found = read_tensorboard(folder)
    assert found.scalars["final/exact_match"] == [(2, 0.5)]
    assert len(found.tables["predictions"]) == 2


def test_an_image_that_is_gone_costs_the_table_alone(
    build: Build, folder: Path, predictions: Predictions, caplog: pytest.LogCaptureFixture
) -> None:
    def load(index: int) -> Any:
        raise UserError("There is no image img/3.jpg.")

    trackers = build("tensorboard")
    trackers.check()
    with trackers.running():
        trackers.show(1, predictions._replace(load_image=load))
        trackers.log(1, {"loss": 2.5})
    assert "img/3.jpg" in caplog.text
    assert read_tensorboard(folder).scalars["train/loss"] == [(1, 2.5)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["tracker=[wandb,tensorbord]"], "Did you mean `tensorboard`", id="name"),
        pytest.param(["tracker=[wandb,wandb]"], "named twice", id="twice"),
        pytest.param(["tracker=[wandb"], r"such as tracker=\[tensorboard,wandb\]", id="bracket"),
        pytest.param(["tracker=wandbb"], "wandbb", id="choice"),
        pytest.param(["tracker.predictions=-1"], "tracker.predictions=-1", id="rows"),
        pytest.param(
            ["tracker=wandb", "tracker.mode=up"], "expected online, offline or disabled", id="mode"
        ),
    ],
)
def test_a_mistake_is_named(command: Command, words: list[str], message: str) -> None:
    code, _, err = command("recipe=quickstart", *words)
    assert code == 2
    assert pytest.importorskip("re").search(message, err)
    assert "Traceback" not in err


@pytest.mark.parametrize("missing", NAMES)
def test_a_package_that_is_not_installed_is_named_with_its_command(
    build: Build, folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for module in (missing, "torch.utils.tensorboard"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(UserError, match=f"tracker={missing} needs .*pip install {missing}"):
        build(missing).check()
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "environment.json"}


def test_the_trackers_of_an_older_run_are_read(tmp_path: Path, command: Command) -> None:
    recipe = tmp_path / "old.yaml"
    recipe.write_text("defaults:\n- override /tracker: none\ntracker: {report_to: wandb, project: p}\n")
    code, out, err = command(f"recipe={recipe}", "dataset=digits", "--cfg", "job")
    assert code == 0, err
    assert "names:\n  - wandb\n  project: p" in out
