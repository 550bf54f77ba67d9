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


def question(split: str, *answers: str) -> dict[str, Any]:
    return {
        "image": f"VizWiz_{split}_00000000.jpg",
        "question": "What's the name of this product?",
        "answers": [{"answer_confidence": "yes", "answer": answer} for answer in answers],
        "answer_type": "other",
        "answerable": 1,
    }


def write_release(root: Path) -> None:
    test = {"image": "VizWiz_test_00000000.jpg", "question": "What is this?"}
    write_tree(
        root,
        {
            "annotations/train.json": [question("train", "basil", "", "basil leaves")],
            "annotations/val.json": [question("val", "basil")],
            "annotations/test.json": [test],
            **{f"{split}/VizWiz_{split}_00000000.jpg": None for split in ("train", "val", "test")},
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_empty_answers_are_not_among_the_accepted_ones(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("vizwiz", "vqa", root)
    assert splits.validation["id"][:] == ["VizWiz_val_00000000.jpg"]
    assert splits.train[0] == {
        "id": "VizWiz_train_00000000.jpg",
        "group": "other",
        "image": str(root / "train/VizWiz_train_00000000.jpg"),
        "question": "What's the name of this product?",
        "answers": ["basil", "basil leaves"],
    }
    assert examples[0].prefix == "answer en What's the name of this product?"
    assert examples[0].suffixes == ("basil", "basil leaves")


def test_the_test_split_has_neither_answers_nor_their_type(root: Path) -> None:
    row = Release("vizwiz", str(root), None, "test").load().validation[0]
    assert (row["answers"], row["group"]) == ([], None)


def test_a_question_with_empty_answers_alone_is_an_error_or_left_out(
    root: Path, write_files: Callable[..., Path]
) -> None:
    write_files({"annotations/val.json": [question("val", "", "")]})
    with pytest.raises(UserError, match=r"val.json item 1: none of its 2 answers has any text"):
        Release("vizwiz", str(root), "train", "val").load()
    assert len(Release("vizwiz", str(root), "train", "val", on_error=OnError.skip).load().skipped) == 1
