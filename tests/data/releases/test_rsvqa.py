import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask

ASKED = [
    ("presence", "Is a road present?", "yes"),
    ("count", "How many roads are there?", "57"),
    ("area", "What is the area of roads?", "1001m2"),
    ("rural_urban", "Is it rural or urban?", "rural"),
    ("area", "What is the area of houses?", "0m2"),
    ("count", "How many houses are there?", "0"),
]


def write_split(root: Path, start: str, split: str) -> None:
    """Questions of picture 7 with answers whose ids are others; the last one is a stub."""
    questions: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for number, (kind, question, answer) in enumerate(ASKED):
        ids = {"id": number, "img_id": 7, "active": True}
        questions.append({**ids, "type": kind, "question": question, "answers_ids": [number + 50]})
        answers.append({"id": number + 50, "question_id": number, "answer": answer, "active": True})
    stub = {"id": 99, "active": False}
    for name, items in (("questions", questions), ("answers", answers)):
        file = root / f"{start}_split_{split}_{name}.json"
        file.write_text(json.dumps({name: [*items, stub]}))


def write_release(root: Path) -> None:
    for start, picture in (("LR", "Images_LR/7.tif"), ("USGS", "Data/7.png")):
        (root / picture).parent.mkdir()
        Image.new("RGB", (4, 4)).save(root / picture)
        for split in ("train", "val", "test_phili") if start == "USGS" else ("train", "val"):
            write_split(root, start, split)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, split: str = "train", on_error: str = "error", **options: Any) -> Splits:
    return Release("rsvqa", str(root), None, split, options=options, on_error=OnError(on_error)).load()


def test_answers_are_joined_and_groups_are_the_questions_types(release: Path) -> None:
    rows = load(release, subset="lr", numbers=False).validation
    assert rows["group"][:] == ["presence", "rural_urban"]
    assert rows[1] == {
        "id": "3",
        "group": "rural_urban",
        "image": str(release / "Images_LR/7.tif"),
        "question": "Is it rural or urban?",
        "answers": ["rural"],
    }
    example = ExampleDataset(rows, TextTask("answer en {question}", "answers"), "train")[0]
    assert (example.prefix, example.suffixes) == ("answer en Is a road present?", ("yes",))


@pytest.mark.parametrize(
    ("subset", "answers"),
    [
        ("lr", ["yes", "between 11 and 100", "1001m2", "rural", "0m2", "0"]),
        ("hr", ["yes", "57", "more than 1000 m2", "rural", "0 m2", "0"]),
    ],
)
def test_numbers_are_answered_by_the_range_that_they_are_scored_by(
    release: Path, subset: str, answers: list[str]
) -> None:
    rows = load(release, subset=subset).validation
    assert [given for (given,) in rows["answers"]] == answers


def test_the_other_city_is_a_split_of_the_aerial_pictures_alone(release: Path) -> None:
    rows = load(release, "test_phili", subset="hr").validation
    assert set(rows["image"]) == {str(release / "Data/7.png")}
    with pytest.raises(UserError, match="No file .*LR_split_test_phili_answers.json"):
        load(release, "test_phili", subset="lr")


def test_the_subset_must_be_named(release: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.options.subset=None: expected one of lr, hr"):
        load(release)


def test_a_question_whose_answer_is_anothers_is_named_or_left_out(release: Path) -> None:
    file = release / "LR_split_train_answers.json"
    file.write_text(file.read_text().replace('"question_id": 3', '"question_id": 4'))
    with pytest.raises(UserError, match=r"item 4: its answer 53 is not in .*LR_split_train_answers.json"):
        load(release, subset="lr")
    splits = load(release, subset="lr", on_error="skip")
    assert (len(splits.validation), len(splits.skipped)) == (len(ASKED) - 1, 1)
