"""The report of a run: written at its end and again later, whole in itself, and never in the run's way."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.assembly import evidence
from finetune.cli import main
from finetune.report import plots
from finetune.run.folder import RunFolder
from finetune.run.results import add_evidence

Command = Callable[..., tuple[int, str, str]]

HOSTILE = "</td><script>alert(1)</script>\x1b[2J\u202e|"
SMALL = ["trainer.dataloader_num_workers=0", "trainer.max_steps=2", "evaluation.limit=24"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has hardly learnt anything, evaluated during its training too."""
    folder = tmp_path_factory.mktemp("report")
    words = ["recipe=quickstart", *SMALL, "evaluation.strategy=steps", "evaluation.steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(words) == 0
    return folder


@pytest.fixture
def inside(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/quickstart"


def read_json(file: Path) -> Any:
    return json.loads(file.read_text())


def read_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_ends_with_a_page_that_needs_nothing_else(trained: Path) -> None:
    run = trained / "runs/quickstart"
    page = (run / "report.html").read_text()
    assert not re.search(r"https?://|<script|src=\"(?!data:)|href=\"(?!#)|@import", page)
    for title in ("Final evaluation", "Worst predictions", "Best predictions", "Training", "Parameters"):
        assert f">{title}</h" in page
    for text in ("exact_match", "95 % interval", "gray images", "Learning rate", "Reliability"):
        assert text in page
    # At most six of each kind, each with its image.
    assert page.count('<article class="card">') == page.count('src="data:image/') == 18
    assert len(page) < 400_000
    text = (run / "report.md").read_text()
    assert "## Final evaluation" in text
    assert "| exact_match |" in text


def test_a_run_keeps_what_its_report_says(trained: Path) -> None:
    run = trained / "runs/quickstart"
    metrics = read_json(run / "metrics.json")
    value, (low, high, resamples) = metrics["final"]["exact_match"], metrics["intervals"]["exact_match"]
    assert low <= value <= high
    assert resamples == 1000
    assert metrics["baseline"]["n"] == 24
    assert set(metrics["baseline"]) == {"n", "scores", "with_images", "difference"}
    assert metrics["baseline"]["with_images"]["exact_match"] == value
    assert metrics["parameters"]["language_model"]["learning"] > 0
    assert metrics["train"]["peak_memory_gib"] > 0
    blank = read_lines(run / "predictions/validation.blank.jsonl")
    rows = read_lines(run / "predictions/validation.jsonl")
    assert [row["id"] for row in blank] == [row["id"] for row in rows]
    history = read_lines(run / "history.jsonl")
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2]
    assert [entry["step"] for entry in history if "eval_exact_match" in entry] == [1, 2]


def test_the_same_page_is_made_again_without_model_and_data(inside: Path, command: Command) -> None:
    before = [(inside / name).read_text() for name in ("report.html", "report.md")]
    shutil.rmtree(inside / "adapter")
    (inside / "report.html").unlink()
    code, _, err = command("report", "run=runs/quickstart")
    assert code == 0, err
    after = [(inside / name).read_text() for name in ("report.html", "report.md")]
    # How the result is loaded has gone with the adapter; all else is the same, to the byte.
    usage = re.compile(
        r"<h2 id=\"use\">.*?(?=<h2)|## Use the result.*|<a href=\"#use\">[^<]*</a>", re.DOTALL
    )
    for old, new in zip(before, after, strict=True):
        assert "".join(usage.sub("", old).split()) == "".join(new.split())


def test_fewer_examples_are_shown_if_asked_for(inside: Path, command: Command) -> None:
    assert command("report", "run=runs/quickstart", "report.examples=2")[0] == 0
    assert (inside / "report.html").read_text().count("<article") == 6


def test_what_models_and_data_say_is_escaped(inside: Path, command: Command) -> None:
    file = inside / "predictions/validation.jsonl"
    rows = read_lines(file)
    for row in rows:
        row |= {"id": HOSTILE, "prefix": HOSTILE, "prediction": HOSTILE, "references": [HOSTILE]}
        row |= {"group": HOSTILE}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = read_json(inside / "metrics.json")
    metrics["final"]["by_group"] = {HOSTILE: {"exact_match": 1.0, "n": 24}}
    metrics["dataset"] = HOSTILE
    (inside / "metrics.json").write_text(json.dumps(metrics))
    assert command("report", "run=runs/quickstart")[0] == 0
    for name in ("report.html", "report.md"):
        page = (inside / name).read_text()
        assert not set("\x1b\u202e") & set(page)
        # Code is indented in Markdown, and no markup there.
        assert not re.search(r"^(?!    ).*(?<!\\)<script", page, re.MULTILINE)
        assert "\\u202e" in page


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda run: (run / "metrics.json").unlink(), "has no metrics.json", id="unfinished"),
        pytest.param(
            lambda run: (run / "metrics.json").write_text('{"train": {}}'),
            "has no scores yet",
            id="no scores",
        ),
        pytest.param(
            lambda run: shutil.rmtree(run / "predictions"),
            "are missing. A run of an older version",
            id="no rows",
        ),
        pytest.param(
            lambda run: (run / "predictions/validation.jsonl").write_text("{}\n"),
            "has 1 rows, but .* has the scores of 24",
            id="other rows",
        ),
        pytest.param(
            lambda run: (run / "predictions/validation.jsonl").write_text("{\n"),
            "validation.jsonl line 1: not the JSON that the run wrote",
            id="half a row",
        ),
        pytest.param(
            lambda run: (run / "metrics.json").write_text("[]"),
            "expected an object as a run writes it",
            id="list",
        ),
    ],
)
def test_a_folder_without_what_a_report_needs_is_refused_by_name(
    inside: Path, command: Command, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(inside)
    page = (inside / "report.html").read_text()
    code, _, err = command("report", "run=runs/quickstart")
    assert code == 2
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert (inside / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "Which run? run=FOLDER", id="no run"),
        pytest.param(["run=nothing"], "nothing", id="no such run"),
        pytest.param(["run=runs/quickstart", "seed=1"], "seed= has no effect on `report`", id="unread"),
        pytest.param(["run=runs/quickstart", "report.examples=-1"], "report.examples=-1", id="range"),
    ],
)
def test_words_that_a_report_does_not_read_are_refused(
    inside: Path, command: Command, words: list[str], message: str
) -> None:
    code, _, err = command("report", *words)
    assert code == 2
    assert message in err


def test_a_run_of_an_older_version_gets_a_page_without_what_it_did_not_keep(
    inside: Path, command: Command
) -> None:
    metrics = read_json(inside / "metrics.json")
    kept = {name: metrics[name] for name in ("final", "result", "train", "evaluations")}
    (inside / "metrics.json").write_text(json.dumps(kept))
    (inside / "history.jsonl").unlink()
    shutil.rmtree(inside / "thumbnails")
    assert command("report", "run=runs/quickstart")[0] == 0
    page = (inside / "report.html").read_text()
    assert "95 % interval" in page
    assert "<img" not in page


def test_an_evaluation_adds_itself_and_is_found_when_the_next_one_comes(
    inside: Path, command: Command
) -> None:
    for limit in (12, 10):
        words = ["run=runs/quickstart", f"evaluation.limit={limit}", "evaluation.blank_limit=5"]
        assert command("evaluate", *words)[0] == 0
    first, second = read_json(inside / "metrics.json")["evaluate"]
    assert (first["baseline"]["n"], second["baseline"]["n"]) == (5, 5)
    assert set(first["intervals"]) == {"exact_match"}
    assert {path.name for path in (inside / "thumbnails").iterdir()} == {
        "validation", "validation.evaluate", "validation.evaluate.1",
    }  # fmt: skip
    assert (inside / "predictions/validation.evaluate.1.blank.jsonl").is_file()
    page = (inside / "report.html").read_text()
    assert "Final evaluation</h2>" in page
    assert "Evaluation 2</h2>" in page
    assert "<dt>model</dt><dd>tiny</dd>" in page


def test_a_test_split_has_its_own_part(inside: Path, command: Command) -> None:
    rows, test = inside / "predictions/validation.jsonl", inside / "predictions/test.jsonl"
    shutil.copyfile(rows, test)
    metrics = read_json(inside / "metrics.json")
    (inside / "metrics.json").write_text(json.dumps({**metrics, "test": metrics["final"]}))
    folder = RunFolder(inside)
    add_evidence(folder, test, {"intervals": {"exact_match": [1.5, 2.5, 1000]}}, read_lines(rows)[:2])
    assert read_json(inside / "metrics.json")["intervals"] == metrics["intervals"]
    assert len(read_lines(inside / "predictions/test.blank.jsonl")) == 2
    assert command("report", "run=runs/quickstart")[0] == 0
    own = (inside / "report.html").read_text().split("Final evaluation, test split</h2>")[1]
    assert "1.5 to 2.5" in own


def test_a_report_that_fails_costs_nothing_but_itself(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no pen")

    monkeypatch.setattr(plots, "draw_svg", fail)
    monkeypatch.setattr("finetune.report.run_plots.draw_svg", fail)
    code, out, err = command("recipe=quickstart", *SMALL)
    assert code == 0, err
    assert "their report is not: ZeroDivisionError: no pen" in out + err
    assert "python -m finetune report run=runs/quickstart" in out + err
    run = tmp_path / "runs/quickstart"
    assert read_json(run / "metrics.json")["final"]["n"] == 24
    assert not (run / "report.html").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert command("report", "run=runs/quickstart")[0] == 0
    assert "data:image" in (run / "report.html").read_text()


def test_grey_images_are_not_answered_where_it_is_not_wanted_or_too_slow(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", "run=runs/quickstart", "evaluation.limit=12"]
    assert command(*words, "evaluation.blank_images=never")[0] == 0
    assert "baseline" not in read_json(inside / "metrics.json")["evaluate"][-1]
    monkeypatch.setattr(evidence, "_LARGE", 1000)
    assert command(*words)[0] == 0
    skipped = read_json(inside / "metrics.json")["evaluate"][-1]["baseline"]["skipped"]
    assert "evaluation.blank_images=always" in skipped
    assert f"Gray images were not tried: {skipped}" in (inside / "report.html").read_text()
    assert command(*words, "evaluation.blank_images=always")[0] == 0
    assert read_json(inside / "metrics.json")["evaluate"][-1]["baseline"]["n"] == 12


def test_a_model_that_ignores_its_images_is_named(inside: Path, command: Command) -> None:
    metrics = read_json(inside / "metrics.json")
    metrics["baseline"]["difference"] = {"exact_match": [2.0, -3.0, 7.0]}
    (inside / "metrics.json").write_text(json.dumps(metrics))
    assert command("report", "run=runs/quickstart")[0] == 0
    assert "The model may ignore its images" in (inside / "report.html").read_text()
    metrics["baseline"]["difference"] = {"exact_match": [5.0, 3.0, 7.0]}
    (inside / "metrics.json").write_text(json.dumps(metrics))
    assert command("report", "run=runs/quickstart")[0] == 0
    assert "The model may ignore its images" not in (inside / "report.html").read_text()


def test_the_code_that_loads_the_result_runs(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    Image.new("RGB", (20, 20), "white").save("image.jpg")
    text = (trained / "runs/quickstart/report.md").read_text()
    codes = re.findall(r"### (From Python|With transformers and peft alone)\n\n((?:    .*\n|\n)+)", text)
    assert len(codes) == 2
    answers = []
    for _, code in codes:
        source = "\n".join(line.removeprefix("    ") for line in code.splitlines()).strip()
        *lines, last = source.splitlines()
        last = last if last.startswith("print") else f"print({last})"
        capsys.readouterr()
        exec("\n".join([*lines, last]), {})
        answers.append(capsys.readouterr().out.strip())
    assert answers[0] == answers[1] != ""
