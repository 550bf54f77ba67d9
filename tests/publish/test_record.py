"""A result is read from its folder, whoever wrote it."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.publish.record import read_record
from finetune.run.folder import RunFolder

SCORES = {"n": 2, "exact_match": 50.0}


def write(folder: Path, **metrics: Any) -> RunFolder:
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "config.yaml").write_text("seed: 0\ndataset:\n  train: /data/a.jsonl\n", encoding="utf-8")
    return RunFolder(folder)


def test_a_training_has_its_final_scores_and_those_of_the_test_split(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        final=SCORES,
        intervals={"exact_match": [10, 90, 1000]},
        test={**SCORES, "exact_match": 60.0},
        answers={"validation": "sha256:v", "test": "sha256:t"},
        evaluate=[{"split": "validation", "scores": {"n": 1}}],
    )
    record = read_record(folder, "run")
    assert record.splits["validation"].scores == SCORES
    assert record.splits["validation"].answers == "sha256:v"
    assert record.splits["test"].scores["exact_match"] == 60
    assert (record.settings, record.places) == (None, {"dataset.train": "/data/a.jsonl"})


def test_an_evaluation_alone_has_its_last_scores_of_each_split(tmp_path: Path) -> None:
    entry = {"split": "validation", "scores": SCORES, "data": {"validation": {"rows": 2}}}
    folder = write(tmp_path, evaluate=[{**entry, "scores": {"n": 1}}, entry])
    record = read_record(folder, "run")
    assert record.splits["validation"].scores == SCORES
    assert record.data == {"validation": {"rows": 2}}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        pytest.param({}, "run has no scores", id="none"),
        pytest.param({"final": "good"}, "run has no scores", id="text"),
        pytest.param({"evaluate": [{"split": "x", "scores": SCORES}]}, "run has no scores", id="split"),
        pytest.param({"final": SCORES, "data": []}, "expected an object under `data`", id="data"),
        pytest.param(
            {"final": SCORES, "data": {"train": 5}}, "expected an object under `train`", id="train"
        ),
        pytest.param(
            {"final": SCORES, "settings": "x"}, "expected an object under `settings`", id="settings"
        ),
        pytest.param(
            {"final": SCORES, "result": {"sha256": 1}}, "expected an object under `sha256`", id="sha"
        ),
        pytest.param(
            {"final": SCORES, "intervals": {"exact_match": "wide"}}, "the ends of the interval", id="text"
        ),
        pytest.param(
            {"final": SCORES, "intervals": {"exact_match": [1]}}, "the ends of the interval", id="one"
        ),
    ],
)
def test_what_no_run_wrote_is_refused(tmp_path: Path, metrics: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_record(write(tmp_path, **metrics), "run")


def test_rows_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text("not a row", encoding="utf-8")
    (tmp_path / "run").mkdir()
    folder = write(tmp_path / "run", final=SCORES, rows="../secret.jsonl")
    assert read_record(folder, "run").splits["validation"].rows is None
