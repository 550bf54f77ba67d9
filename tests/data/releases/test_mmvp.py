import csv
from pathlib import Path

import pytest
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.text import TextTask

ROWS = [
    (1, "Is the door open, or closed?", "(a) Open (b) Closed", "(a)"),
    (2, "Is the door open, or closed?", "(a) Open (b) Closed", "(b)"),
    (3, "Which way?", "(a) To the left (or up) (b) To the right", "(b)"),
]


def write(root: Path, rows: list[tuple[int, str, str, str]]) -> Path:
    (root / "MMVP Images").mkdir(exist_ok=True)
    with (root / "Questions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Index", "Question", "Options", "Correct Answer"])
        writer.writerows(rows)
    for row in rows:
        Image.new("RGB", (4, 4)).save(root / f"MMVP Images/{row[0]}.jpg")
    return root


def write_release(root: Path) -> None:
    write(root, ROWS)


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("mmvp", str(root), None, "test", on_error=OnError(on_error)).load()


def test_two_questions_are_a_group(tmp_path: Path) -> None:
    rows = load(write(tmp_path, ROWS)).validation
    assert rows["group"][:] == ["1", "1", "2"]
    assert rows["choices"][2] == ["To the left (or up)", "To the right"]
    assert rows[1] == {
        "id": "2",
        "group": "1",
        "image": str(tmp_path / "MMVP Images/2.jpg"),
        "question": "Is the door open, or closed?",
        "choices": ["Open", "Closed"],
        "answers": ["Closed"],
        "answer": 1,
    }


def test_it_is_asked_as_an_open_question_in_the_papers_words_or_with_choices(tmp_path: Path) -> None:
    rows = load(write(tmp_path, ROWS)).validation
    example = ExampleDataset(rows, TextTask("answer en {question}", "answers"), "validation")[0]
    assert (example.prefix, example.suffixes) == ("answer en Is the door open, or closed?", ("Open",))
    lettered = ExampleDataset(rows, ChoiceTask("{question} {choices}"), "validation")[1]
    assert lettered.prefix == "Is the door open, or closed? (A) Open, (B) Closed"
    assert lettered.suffixes == ("B",)


def test_an_answer_that_is_no_option_is_named_or_left_out(tmp_path: Path) -> None:
    root = write(tmp_path, [*ROWS[:2], (3, "What?", "(a) this (b) that", "(c)")])
    with pytest.raises(UserError, match=r"Questions.csv line 4: the right answer '\(c\)' is none of"):
        load(root)
    splits = load(root, "skip")
    assert (len(splits.validation), len(splits.skipped)) == (2, 1)
