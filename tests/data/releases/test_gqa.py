import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask
from tests.data.releases.conftest import write_tree

RECORD: dict[str, Any] = {
    "semantic": [{"operation": "select", "dependencies": [], "argument": "chalkboard (0)"}],
    "question": "What is hanging above the chalkboard?",
    "imageId": "n578564",
    "isBalanced": True,
    "answer": "picture",
    "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
    "fullAnswer": "The picture is hanging above the chalkboard.",
}


def write_release(root: Path) -> None:
    write_tree(
        root,
        {
            "train_balanced_questions.json": {"1": RECORD, "2": RECORD},
            "testdev_balanced_questions.json": {"202218649": RECORD},
            "images/n578564.jpg": None,
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_a_record_becomes_a_question_with_one_short_answer(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("gqa", "vqa", root)
    assert splits.train["id"][:] == ["1", "2"]
    assert splits.validation[0] == {
        "id": "202218649",
        "group": "query",
        "image": str(root / "images/n578564.jpg"),
        "question": "What is hanging above the chalkboard?",
        "answers": ["picture"],
    }
    assert examples[0].prefix == "answer en What is hanging above the chalkboard?"
    assert examples[0].suffixes == ("picture",)


def test_the_whole_training_split_is_its_ten_files(root: Path, write_files: Callable[..., Path]) -> None:
    name = "train_all_questions/train_all_questions_{}.json"
    write_files({name.format(part): {str(part): RECORD} for part in range(10)})
    train = Release("gqa", str(root), "train_all", "testdev_balanced").load().train
    assert train["id"][:] == [str(part) for part in range(10)]
    (root / name.format(9)).unlink()
    with pytest.raises(UserError, match="No file .*train_all_questions_9.json"):
        Release("gqa", str(root), "train_all", "testdev_balanced").load()


def test_a_record_without_an_answer_is_an_error_or_left_out(
    root: Path, write_files: Callable[..., Path]
) -> None:
    unanswered = {name: value for name, value in RECORD.items() if name != "answer"}
    write_files({"val_balanced_questions.json": {"7": unanswered, "8": RECORD, "9": "no record"}})
    with pytest.raises(UserError, match=r"val_balanced_questions.json: question 7: no `answer`; the keys"):
        Release("gqa", str(root), None, "val_balanced").load()
    splits = Release("gqa", str(root), None, "val_balanced", on_error=OnError.skip).load()
    assert splits.validation["id"][:] == ["8"]
    assert "question 9: expected a JSON object, got str" in splits.skipped[1]


def write_real_release(root: Path, samples: Path) -> list[dict[str, Any]]:
    """A sample, which is returned, as the split `testdev_all`."""
    sample: list[dict[str, Any]] = json.loads((samples / "gqa.json").read_text(encoding="utf-8"))
    shutil.copytree(samples / "gqa", root / "images")
    records = {one["question_id"]: {**one, "imageId": Path(one["image"]).stem} for one in sample}
    (root / "testdev_all_questions.json").write_text(json.dumps(records))
    return sample


@pytest.mark.parity
def test_real_questions_find_their_photos(parity_data: Path, tmp_path: Path) -> None:
    sample = write_real_release(tmp_path, parity_data / "images")
    rows = Release("gqa", str(tmp_path), None, "testdev_all").load().validation
    examples = ExampleDataset(rows, TextTask("answer en {question}", "answers"), "testdev")
    assert [(one.id, one.suffixes) for one in map(examples.__getitem__, range(len(rows)))] == [
        (one["question_id"], (one["answer"],)) for one in sample
    ]
    assert all(min(examples[index].images[0].size) > 100 for index in range(len(examples)))
