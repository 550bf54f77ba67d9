import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.config.compose import compose
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask

PROBLEM: dict[str, Any] = {
    "question": "Which is colder?",
    "choices": ["ice", "steam", "tea"],
    "answer": 1,
    "hint": "",
    "image": "image.png",
    "subject": "natural science",
    "split": "train",
}


def preset() -> ChoiceTask:
    options = vars(compose(["dataset=scienceqa", "task=scienceqa"]).task)
    return ChoiceTask(**{name: value for name, value in options.items() if name != "_target_"})


def write_release(root: Path) -> None:
    problems = {
        "1": PROBLEM,
        "2": {**PROBLEM, "image": None},
        "3": {**PROBLEM, "hint": "Look at the\npicture.", "subject": "social science"},
        "4": PROBLEM,
    }
    splits = {"train": ["3", "1", "2"], "val": ["4"], "test": [], "minival": ["4"]}
    (root / "problems.json").write_text(json.dumps(problems))
    (root / "pid_splits.json").write_text(json.dumps(splits))
    for place in ("train/1", "train/3", "val/4"):
        (root / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / place / "image.png")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("scienceqa", str(root), "train", "val", on_error=OnError(on_error)).load()


def test_only_questions_with_a_picture_are_read(release: Path) -> None:
    splits = load(release)
    assert splits.train["id"][:] == ["3", "1"]
    assert splits.validation["id"][:] == ["4"]
    assert splits.train[1] == {
        "id": "1",
        "group": "natural science",
        "image": str(release / "train/1/image.png"),
        "question": "Which is colder?",
        "hint": "N/A",
        "choices": ["ice", "steam", "tea"],
        "answer": 1,
    }


def test_prompt_and_answer_are_the_papers(release: Path) -> None:
    dataset = ExampleDataset(load(release).train, preset(), "train")
    assert dataset[0].prefix == (
        "Question: Which is colder?\nContext: Look at the\npicture.\n"
        "Options: (A) ice, (B) steam, (C) tea\nAnswer:"
    )
    assert dataset[0].suffixes == ("The answer is B.",)
    assert "\nContext: N/A\n" in dataset[1].prefix
    shuffled = ExampleDataset(dataset.rows, preset(), "train", seed=0)
    assert {shuffled[epoch, 0].suffixes for epoch in range(20)} == {
        (f"The answer is {letter}.",) for letter in "ABC"
    }


def test_a_problem_that_is_listed_but_missing_is_named_or_left_out(release: Path) -> None:
    problems = json.loads((release / "problems.json").read_text())
    del problems["1"], problems["3"]["subject"]
    (release / "problems.json").write_text(json.dumps(problems))
    with pytest.raises(UserError, match="problem 3: no `subject`; the keys are: question, "):
        load(release)
    splits = load(release, "skip")
    assert (len(splits.train), len(splits.validation)) == (0, 1)
    assert "no problem 1, which pid_splits.json has in `train`" in splits.skipped[1]


def write_real_release(root: Path, folder: Path) -> list[dict[str, Any]]:
    """A sample of the test split, which is returned."""
    samples: list[dict[str, Any]] = json.loads((folder / "scienceqa.json").read_text())
    problems = {}
    for sample in samples:
        number = sample["question_id"]
        lines = sample["prompt"].split("\n")
        choices = [line[3:] for line in lines if line[1:3] == ". "]
        problems[number] = {
            **PROBLEM,
            "question": "\n".join(lines[: -len(choices)]),
            "choices": choices,
            "answer": ord(sample["answer"]) - ord("A"),
        }
        (root / "test" / number).mkdir(parents=True)
        shutil.copy(folder / sample["image"], root / "test" / number / "image.png")
    (root / "problems.json").write_text(json.dumps(problems))
    (root / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    return samples


@pytest.mark.parity
def test_real_problems_are_read(tmp_path: Path, parity_data: Path) -> None:
    samples = write_real_release(tmp_path, parity_data / "images")
    rows = Release("scienceqa", str(tmp_path), None, "test").load().validation
    examples = ExampleDataset(rows, preset(), "validation")
    assert len(rows) == 30
    for index, sample in enumerate(samples):
        assert examples[index].images[0].size == tuple(sample["size"])
        assert examples[index].suffixes == (f"The answer is {sample['answer']}.",)
