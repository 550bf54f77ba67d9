import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from finetune.cli import main
from finetune.example import AnswerForm
from finetune.tasks.grammar import can_write
from tests.conftest import noise_image

Command = Callable[..., tuple[int, str, str]]


def write_coco(folder: Path, *labels: str, count: int = 2) -> Path:
    """Images with a box of each class, in COCO's JSON."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (20, 10), (90 * number, 0, 0)).save(folder / f"{number}.png")
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(count)],
        "annotations": [
            {"id": 10 * image + number, "image_id": image, "category_id": number, "bbox": [2, 1, 6, 4]}
            for image in range(count)
            for number in range(len(labels))
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(labels)],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two classes, after one step, whose training data are gone."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_coco(folder / "train", "dog", "cat")
    write_coco(folder / "valid", "cat")
    words = ["recipe=coco_json_qlora", "model=tiny", "trainer.max_steps=1", "evaluation=default"]
    words += ["evaluation.metric_for_best_model=null", "trainer.dataloader_num_workers=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*words, "dataset.train=train", "dataset.validation=valid", "run_name=own"]) == 0
    shutil.rmtree(folder / "train")
    return folder


@pytest.fixture
def inside(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_knows_its_classes_and_asks_as_it_was_trained(inside: Path, command: Command) -> None:
    config: Any = OmegaConf.load(inside / "runs/own/config.yaml")
    assert config.task.labels == ["cat", "dog"]
    for words in ([], ["dataset.train=null"]):
        code, out, err = command("evaluate", "run=runs/own", "dataset.validation=valid", *words)
        assert code == 0, err
        rows = read_rows(inside / "runs/own/predictions/validation.evaluate.jsonl")
        assert {row["prefix"] for row in rows} == {"detect cat ; dog"}
        assert "scores, validation (valid), 2 examples" in out
        assert "2 classes: cat, dog" in out


def test_classes_that_the_run_does_not_know_are_reported_and_nothing_is_written(
    inside: Path, command: Command
) -> None:
    write_coco(inside / "other", "cat", "zebra")
    before = {path: path.stat().st_mtime_ns for path in (inside / "runs").rglob("*")}
    code, _, err = command("evaluate", "run=runs/own", "dataset.validation=other")
    assert code == 2
    assert "validation (other/_annotations.coco.json: image 0): Row `0`" in err
    assert "class `zebra` is not in task.labels" in err
    assert "They are: cat, dog" in err
    assert {path: path.stat().st_mtime_ns for path in (inside / "runs").rglob("*")} == before


def test_an_earlier_evaluations_rows_keep_a_number_and_metrics_name_each(
    inside: Path, command: Command
) -> None:
    shutil.copytree(inside / "valid", inside / "test")
    for name in ("valid", "test"):
        assert command("evaluate", "run=runs/own", f"dataset.validation={name}")[0] == 0
    run = inside / "runs/own"
    entries = json.loads((run / "metrics.json").read_text())["evaluate"]
    assert [entry["dataset"] for entry in entries] == ["valid", "test"]
    assert [entry["rows"] for entry in entries] == [
        "predictions/validation.evaluate.1.jsonl",
        "predictions/validation.evaluate.jsonl",
    ]
    assert all((run / entry["rows"]).is_file() for entry in entries)


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"evaluate": {}}', '{"evaluate": [1]}'],
    ids=["cut", "list", "object", "number"],
)
def test_broken_metrics_are_reported_before_anything_is_scored(
    inside: Path, command: Command, content: str
) -> None:
    (inside / "runs/own/metrics.json").write_text(content)
    code, out, err = command("evaluate", "run=runs/own")
    assert code == 2
    assert "metrics.json" in err
    assert out == ""
    assert not (inside / "runs/own/predictions/validation.evaluate.jsonl").exists()


def test_a_run_that_is_not_finished_says_so(inside: Path, command: Command) -> None:
    shutil.rmtree(inside / "runs/own/adapter")
    code, _, err = command("evaluate", "run=runs/own")
    assert code == 2
    assert "is not finished" in err


def test_faults_that_are_left_out_are_listed_next_to_the_rows(inside: Path, command: Command) -> None:
    write_coco(inside / "other", "cat", count=3)
    file = inside / "other/_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 7, "name": "zebra"})
    content["annotations"][1]["category_id"] = 7
    file.write_text(json.dumps(content))
    words = ["run=runs/own", "dataset.validation=other", "dataset.on_error=skip"]
    code, out, err = command("evaluate", *words)
    assert code == 0, err
    assert "left out 1 of 3 validation examples" in out
    predictions = inside / "runs/own/predictions"
    assert len(read_rows(predictions / "validation.evaluate.jsonl")) == 2
    skipped = read_rows(predictions / "validation.evaluate.skipped.jsonl")
    assert [(line["split"], line["id"]) for line in skipped] == [("validation", "1")]


def test_a_run_begins_with_what_it_works_on(inside: Path) -> None:
    log = (inside / "runs/own/train.log").read_text()
    assert "model tiny on cpu; run folder runs/own" in log
    assert "data: 2 train rows (train), 2 validation rows (valid)" in log
    assert "2 classes: cat, dog" in log
    assert "first example: 'detect cat ; dog' -> '<loc0102>" in log


def test_under_a_grammar_every_answer_is_read_back_whole(inside: Path, command: Command) -> None:
    words = ["evaluation.grammar=auto", "evaluation.max_new_tokens=40", "evaluation.num_beams=2"]
    code, _, err = command("evaluate", "run=runs/own", "dataset.validation=valid", *words)
    assert code == 0, err
    form = AnswerForm((" cat", " dog"), box=True)
    for row in read_rows(inside / "runs/own/predictions/validation.evaluate.jsonl"):
        assert can_write(form, row["prediction"])
        assert "unfinished" not in row


def test_a_grammar_that_allows_no_right_answer_is_refused(inside: Path, command: Command) -> None:
    words = [
        "recipe=table_vqa_qlora",
        "model=tiny",
        "dataset.train=quiz.csv",
        "dataset.validation=quiz.csv",
    ]
    noise_image(0).save(inside / "1.png")
    (inside / "quiz.csv").write_text("image,question,answer\n1.png,how many?,3\n1.png,what?,a cup\n")
    code, _, err = command("evaluate", *words, "evaluation.grammar=number")
    assert code == 2
    assert "it allows no reference of 1 of 2 validation examples" in err
    assert "'a cup' after 'answer en what?'" in err
    assert not (inside / "runs/table_vqa_qlora_evaluate").exists()
