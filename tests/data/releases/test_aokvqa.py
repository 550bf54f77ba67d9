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

ASKED = {
    "split": "x",
    "image_id": 299207,
    "question_id": "22MexNkBPpdZGX6sxbxVBH",
    "question": "What is the man by the bags awaiting?",
    "choices": ["skateboarder", "train", "delivery", "cab"],
}
ANSWERED: dict[str, Any] = {
    **ASKED,
    "correct_choice_idx": 3,
    "direct_answers": ["ride", "taxi", "taxi"],
    "difficult_direct_answer": False,
    "rationales": ["a", "b", "c"],
}


def write_release(root: Path) -> None:
    second = {**ANSWERED, "question_id": "2"}
    write_tree(
        root,
        {
            "aokvqa_v1p0_train.json": [ANSWERED],
            "aokvqa_v1p0_val.json": [ANSWERED, second],
            "aokvqa_v1p0_test.json": [ASKED],
            **{f"{split}2017/000000299207.jpg": None for split in ("train", "val", "test")},
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_direct_answers_and_choices_are_both_there(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, direct = load_choice("aokvqa", "vqa", root)
    assert splits.validation["id"][:] == ["22MexNkBPpdZGX6sxbxVBH", "2"]
    assert splits.train[0] == {
        "id": "22MexNkBPpdZGX6sxbxVBH",
        "group": None,
        "image": str(root / "train2017/000000299207.jpg"),
        "question": "What is the man by the bags awaiting?",
        "answers": ["ride", "taxi", "taxi"],
        "choices": ["skateboarder", "train", "delivery", "cab"],
        "answer": 3,
    }
    assert direct[0].prefix == "answer en What is the man by the bags awaiting?"
    assert direct[0].suffixes == ("ride", "taxi", "taxi")
    _, choice = load_choice("aokvqa", "choice_text", root)
    assert choice[0].prefix == (
        "answer en  What is the man by the bags awaiting? choose from: "
        "skateboarder \t train \t delivery \t cab"
    )
    assert choice[0].suffixes == ("cab",)


def test_the_test_split_has_choices_alone(root: Path) -> None:
    row = Release("aokvqa", str(root), None, "test").load().validation[0]
    assert (row["answers"], row["answer"], len(row["choices"])) == ([], None, 4)


def test_a_question_without_answers_is_an_error_or_left_out(
    root: Path, write_files: Callable[..., Path]
) -> None:
    write_files({"aokvqa_v1p0_val.json": [ANSWERED, {**ASKED, "question_id": "2"}]})
    message = r"aokvqa_v1p0_val.json item 2: no `direct_answers`; the keys are: split, image_id"
    with pytest.raises(UserError, match=message):
        Release("aokvqa", str(root), "train", "val").load()
    splits = Release("aokvqa", str(root), "train", "val", on_error=OnError.skip).load()
    assert (len(splits.validation), len(splits.skipped)) == (1, 1)
