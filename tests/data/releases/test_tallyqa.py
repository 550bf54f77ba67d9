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

COUNTED: dict[str, Any] = {
    "answer": 4,
    "data_source": "imported_genome",
    "image": "VG_100K_2/2410408.jpg",
    "image_id": 92410408,
    "question": "How many headlights does the black bus have?",
    "question_id": 30095774,
}


def write_release(root: Path) -> None:
    simple = {**COUNTED, "issimple": True, "question_id": 1}
    write_tree(
        root,
        {
            "train.json": [{**COUNTED, "image": "train2014/COCO_train2014_000000000009.jpg"}],
            "test.json": [{**COUNTED, "issimple": False}, simple],
            "train2014/COCO_train2014_000000000009.jpg": None,
            "VG_100K_2/2410408.jpg": None,
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_a_count_is_written_in_digits_and_test_says_what_is_simple(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("tallyqa", "vqa", root)
    assert splits.train["group"][:] == [None]
    assert splits.validation["group"][:] == ["complex", "simple"]
    assert splits.validation[0] == {
        "id": "92410408-30095774",
        "group": "complex",
        "image": str(root / "VG_100K_2/2410408.jpg"),
        "question": "How many headlights does the black bus have?",
        "answers": ["4"],
    }
    assert examples[0].prefix == "answer en How many headlights does the black bus have?"
    assert examples[0].suffixes == ("4",)


def test_a_test_question_without_its_kind_is_an_error_or_left_out(
    root: Path, write_files: Callable[..., Path]
) -> None:
    write_files({"test.json": [COUNTED]})
    with pytest.raises(UserError, match="test.json item 1: no `issimple`"):
        Release("tallyqa", str(root), "train", "test").load()
    assert len(Release("tallyqa", str(root), "train", "test", on_error=OnError.skip).load().skipped) == 1
