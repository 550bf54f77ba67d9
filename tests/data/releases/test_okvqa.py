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

WORDS = [f"word {number}" for number in range(10)]


def official(subset: str) -> dict[str, Any]:
    question = {"image_id": 51606, "question": "What is the hairstyle called?", "question_id": 516065}
    answers = [
        {"answer_id": number, "raw_answer": "x", "answer_confidence": "yes", "answer": word}
        for number, word in enumerate(WORDS, 1)
    ]
    annotation = {
        "image_id": 51606,
        "answer_type": "other",
        "question_type": "four",
        "question_id": 516065,
        "answers": answers,
    }
    return {
        f"OpenEnded_mscoco_{subset}_questions.json": {"info": {}, "questions": [question]},
        f"mscoco_{subset}_annotations.json": {"info": {}, "annotations": [annotation]},
        f"{subset}/COCO_{subset}_000000051606.jpg": None,
    }


def write_release(root: Path) -> None:
    write_tree(root, {**official("train2014"), **official("val2014")})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_a_question_keeps_ten_answers_and_its_kind_of_knowledge(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("okvqa", "vqa", root)
    assert splits.validation[0] == {
        "id": "516065",
        "group": "four",
        "image": str(root / "val2014/COCO_val2014_000000051606.jpg"),
        "question": "What is the hairstyle called?",
        "answers": WORDS,
    }
    assert examples[0].prefix == "answer en What is the hairstyle called?"
    assert examples[0].suffixes == tuple(WORDS)


def test_a_missing_photo_is_an_error_or_left_out(root: Path) -> None:
    (root / "val2014/COCO_val2014_000000051606.jpg").unlink()
    with pytest.raises(UserError, match=r"mscoco_val2014_annotations.json: question 516065: no image"):
        Release("okvqa", str(root), "train", "val").load()
    splits = Release("okvqa", str(root), "train", "val", on_error=OnError.skip).load()
    assert (len(splits.train), len(splits.validation), len(splits.skipped)) == (1, 0, 1)


def test_a_split_that_it_lacks_is_refused_with_those_it_has(root: Path) -> None:
    with pytest.raises(UserError, match="okvqa has no split `test`. It has: train, val"):
        Release("okvqa", str(root), "train", "test").load()
