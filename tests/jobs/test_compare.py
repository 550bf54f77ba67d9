"""Finished runs compared from the command line and from Python."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.cli import main

Command = Callable[..., tuple[int, str, str]]

SHORT = (
    "trainer.max_steps=1",
    "trainer.global_batch_size=4",
    "evaluation.limit=12",
    "evaluation.loss=false",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs about digits, and one about boxes."""
    place = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["recipe=quickstart", *SHORT, "run_name=a"]) == 0
        assert main(["recipe=quickstart", *SHORT, "run_name=b", "peft.r=4"]) == 0
        data = ["dataset.train=64", "dataset.validation=3"]
        assert main(["recipe=quickstart_detect", *SHORT[:3], *data, "run_name=boxes"]) == 0
    return place / "runs"


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them that a test may change; the current folder is above it."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return Path("runs")


def answer(run: Path, *answers: str) -> None:
    """Replace the answers of a run, and score them."""
    file = run / "predictions/validation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, text in zip(rows, answers, strict=False):
        text = row["references"][0] if text == "right" else text
        row |= {"prediction": text, "score": 100.0 * (text in row["references"])}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    change(
        run, lambda metrics: metrics["final"].update(exact_match=sum(r["score"] for r in rows) / len(rows))
    )


def change(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the scores of a run, without the intervals that they had."""
    file = run / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics.pop("intervals", None)
    edit(metrics)
    file.write_text(json.dumps(metrics))


def test_two_runs_are_a_table_a_verdict_and_a_page(runs: Path, command: Command) -> None:
    answer(runs / "a", *["wrong"] * 12)
    answer(runs / "b", "<script>alert(1)</script>", "\x1b[2J", "wrong", *["right"] * 9)
    change(runs / "b", lambda metrics: metrics["train"].update(seconds=5.0))
    code, out, err = command("compare", "runs/a", "runs/b")
    assert code == 0, err
    head, *lines = out.splitlines()
    assert head.split()[:3] == ["run", "peft.r", "exact_match"]
    assert re.match(r"a +16 +0 \[0, 0\] ", lines[0])
    assert re.match(r"b \* +4 +75 \[\d+(\.\d+)?, \d+(\.\d+)?\] ", lines[1])
    assert "b less a: exact_match +75 [" in out
    assert "the difference is more than chance" in out
    assert "11 answers differ: 9 are better in b, 0 in a." in out
    page = (runs / "compare/compare.html").read_text()
    assert page.count("data:image/") == 11
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert page.count('<svg class="plot"') >= 2
    assert "mathdefault" not in page, "labels of axes are plain text"
    rows = [json.loads(line) for line in (runs / "compare/compare_rows.jsonl").read_text().splitlines()]
    assert len(rows) == 11
    assert {row["gain"] for row in rows} == {0, 100}
    assert [row["b"] for row in rows if row["gain"] == 0] == ["<script>alert(1)</script>", "\x1b[2J"]
    assert (runs / "compare/compare.csv").read_text().startswith("run,peft.r,exact_match,")
    assert command("compare", "runs/a", "runs/b")[0] == 0, "a comparison may be made again"


def test_answers_of_boxes_are_drawn(runs: Path, command: Command) -> None:
    shutil.copytree(runs / "boxes", runs / "other")
    file = runs / "other/predictions/validation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["prediction"] = "<loc0100><loc0100><loc0500><loc0500> 3"
        row["prediction_objects"] = [{"label": "3", "box_xyxy": [5.0, 5.0, 20.0, 20.0], "score": 0.5}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = command("compare", "runs/boxes", "runs/other")
    assert code == 0, err
    assert "3 answers differ" in out
    assert (runs / "compare/compare.html").read_text().count("data:image/") == 3


def test_runs_on_other_rows_are_compared_on_those_they_share(runs: Path, command: Command) -> None:
    answer(runs / "a", *["right"] * 12)
    file = runs / "b/predictions/validation.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:11]))
    change(runs / "b", lambda metrics: metrics["final"].update(n=11))
    code, out, err = command("compare", "runs/a", "runs/b")
    assert code == 0, err
    assert "note: the runs were not scored on the same rows (a: 12, b: 11)" in out
    assert "on 11 common rows" in out
    assert "1 of a and 0 of b are left out" in out
    assert "* best" not in out


def test_runs_with_other_metrics_stand_beside_each_other(runs: Path, command: Command) -> None:
    config = (runs / "b/config.yaml").read_text()
    config = config.replace("override /metric: exact_match", "override /metric: anls")
    (runs / "b/config.yaml").write_text(re.sub(r"(?m)^metric:\n(  .*\n)+", "", config))
    change(runs / "b", lambda metrics: metrics.update(final={"anls": 50.0, "n": 12}))
    code, out, err = command("compare", "runs/a", "runs/b")
    assert code == 0, err
    assert "note: the runs have different metrics" in out
    assert "* best" not in out
    assert "answers differ" not in out


def test_what_a_folder_lacks_limits_the_comparison_alone(runs: Path, command: Command) -> None:
    (runs / "a/predictions/validation.jsonl").unlink()
    change(runs / "a", lambda metrics: None)
    code, out, err = command("compare", "runs/a", "runs/b", "runs/boxes", "out=elsewhere")
    assert code == 0, err
    assert "without prediction rows, and so without intervals: a" in out
    assert not (runs / "compare").exists()
    assert Path("elsewhere/compare.html").is_file()


def test_the_page_is_made_without_images_where_the_data_are_gone(runs: Path, command: Command) -> None:
    for name in ("a", "b"):
        answer(runs / name, *(["right"] if name == "a" else ["wrong"]) * 12)
        file = runs / name / "config.yaml"
        config = file.read_text().replace("override /dataset: digits", "override /dataset: jsonl")
        config = re.sub(
            r"(?m)^dataset:\n(  .*\n)+", "dataset: {train: gone.jsonl, validation: null}\n", config
        )
        file.write_text(config)
    code, out, err = command("compare", "runs/a", "runs/b")
    assert code == 0, err
    assert "12 answers differ" in out
    assert "the page has no images" in err
    assert "gone.jsonl" in err


def test_a_sweep_with_a_run_that_has_no_scores_is_compared(runs: Path, command: Command) -> None:
    for number, name in enumerate(("a", "b", "boxes")):
        shutil.copytree(runs / name, runs / f"sweep/{number}")
    (runs / "sweep/2/metrics.json").unlink()
    code, out, err = command("compare", "runs/sweep")
    assert code == 0, err
    assert "2: no scores. runs/sweep/2 has no scores. Score it: python -m finetune evaluate" in out
    assert "python -m finetune evaluate run=runs/sweep/" in out
    assert re.search(r"python -m finetune train recipe=quickstart .*run_name=sweep_best", out)
    assert (runs / "sweep/compare.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "Which runs?.*compare runs/a runs/b", id="none"),
        pytest.param(["runs/a"], "Which runs?", id="one"),
        pytest.param(["runs/a", "runs/c"], "There is no runs/c", id="no such run"),
        pytest.param(["runs/a", "runs/boxs"], "Did you mean `boxes`", id="near"),
        pytest.param(["runs/a", "runs/./a"], "named twice", id="twice"),
        pytest.param(["runs/a", "runs/a/adapter"], "holds no run", id="no run"),
        pytest.param(["runs/a", "runs/a/metrics.json"], "is a file", id="file"),
        pytest.param(["runs/a", "runs/begun"], "its training has not ended.*resume=true", id="begun"),
        pytest.param(
            ["runs/a", "runs/older"], "layout of this version.*evaluate run=runs/older", id="older"
        ),
        pytest.param(["runs/a", "runs/broken"], "metrics.json", id="broken"),
        pytest.param(["runs/a", "runs/unreadable"], "unreadable/config.yaml line 1", id="settings"),
        pytest.param(["runs/a", "runs/b", "out=mine"], "no comparison wrote it", id="foreign file"),
        pytest.param(["runs/a", "runs/b", "out=runs/a/config.yaml"], "is a file", id="out"),
        pytest.param(["runs/a", "runs/b", "peft.r=2"], "no effect on `compare`", id="option"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    runs: Path, command: Command, words: list[str], message: str
) -> None:
    for name in ("begun", "older", "broken", "unreadable"):
        shutil.copytree(runs / "a", runs / name)
    for part in ("metrics.json", "adapter/adapter_config.json"):
        (runs / "begun" / part).unlink()
    shutil.rmtree(runs / "begun/adapter")
    (runs / "older/metrics.json").write_text('{"exact_match": 50.0}')
    (runs / "broken/metrics.json").write_text('{"final": ')
    (runs / "unreadable/config.yaml").write_text("- [")
    Path("mine").mkdir()
    Path("mine/compare.csv").write_text("mine")
    before = sorted(Path().rglob("*"))
    code, out, err = command("compare", *words)
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


def test_a_program_gets_values(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = finetune.compare(runs / "a", runs / "b")
    assert capsys.readouterr() == ("", "")
    assert [Path(row["run"]).name for row in result.rows] == ["a", "b"]
    assert [row["settings"]["peft.r"] for row in result.rows] == [16, 4]
    assert result.page.is_file()
    assert result.differences["exact_match"].low <= result.differences["exact_match"].high


def test_a_folder_may_have_any_name(runs: Path, command: Command) -> None:
    names = ["lr=0.1", "a b", "größe,2", "[x]"]
    for name in names:
        shutil.copytree(runs / "a", runs / name)
    code, out, err = command("compare", *(f"runs/{name}" for name in names))
    assert code == 0, err
    assert [line.startswith(name) for line, name in zip(out.splitlines()[1:5], names, strict=True)]
