from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from tests.data.releases.conftest import write_tree

PHOTO = "coco-text/COCO_train2014_000000438516.jpg"


def question(number: int) -> dict[str, Any]:
    return {"question_id": number, "question": f"What is sign {number}?", "file_path": PHOTO}


def write_release(root: Path) -> None:
    write_tree(
        root,
        {
            "train_task_3.json": {
                "data": [{**question(number), "answers": ["STOP", "Stop"]} for number in range(45)]
            },
            "test_task_3.json": {"data": [question(100)]},
            f"train_images/{PHOTO}": None,
            f"test_task3_images/{PHOTO}": None,
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_validation_is_the_end_of_train(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("stvqa", "vqa", root, "task.lower=true")
    assert splits.train["id"][:] + splits.validation["id"][:] == [str(number) for number in range(45)]
    assert splits.validation["id"][:] == ["43", "44"]
    assert splits.train[0] == {
        "id": "0",
        "group": None,
        "image": str(root / "train_images" / PHOTO),
        "question": "What is sign 0?",
        "answers": ["STOP", "Stop"],
    }
    assert (examples[0].prefix, examples[0].suffixes) == ("answer en What is sign 0?", ("stop", "stop"))


def test_the_test_split_has_a_folder_of_its_own_and_no_answers(root: Path) -> None:
    row = Release("stvqa", str(root), None, "test").load().validation[0]
    assert (row["image"], row["answers"]) == (str(root / "test_task3_images" / PHOTO), [])


def test_a_missing_photo_is_an_error_or_left_out(root: Path) -> None:
    (root / "test_task3_images" / PHOTO).unlink()
    with pytest.raises(UserError, match=rf"test_task_3.json item 1: no image `{PHOTO}`"):
        Release("stvqa", str(root), "train", "test").load()
    assert len(Release("stvqa", str(root), "train", "test", on_error=OnError.skip).load().skipped) == 1
