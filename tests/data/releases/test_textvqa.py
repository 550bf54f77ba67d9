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

ASKED = {"question": "what brand is it?", "question_id": 34602, "image_id": "0054c91397f2fe05"}
ANSWERS = ["nokia"] * 9 + ["toshiba"]


def data(*items: dict[str, Any]) -> dict[str, Any]:
    return {"dataset_type": "x", "data": list(items)}


def write_release(root: Path) -> None:
    write_tree(
        root,
        {
            "TextVQA_0.5.1_train.json": data({**ASKED, "answers": ANSWERS}),
            "TextVQA_0.5.1_val.json": data({**ASKED, "answers": ANSWERS, "question_id": 7}),
            "TextVQA_0.5.1_test.json": data(ASKED),
            "train_images/0054c91397f2fe05.jpg": None,
            "test_images/0054c91397f2fe05.jpg": None,
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_the_photos_of_validation_lie_among_those_of_train(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("textvqa", "vqa", root)
    assert splits.validation[0] == {
        "id": "7",
        "group": None,
        "image": str(root / "train_images/0054c91397f2fe05.jpg"),
        "question": "what brand is it?",
        "answers": ANSWERS,
    }
    assert (examples[0].prefix, examples[0].suffixes) == ("answer en what brand is it?", tuple(ANSWERS))


def test_the_test_split_has_photos_of_its_own_and_no_answers(root: Path) -> None:
    row = Release("textvqa", str(root), None, "test").load().validation[0]
    assert (row["image"], row["answers"]) == (str(root / "test_images/0054c91397f2fe05.jpg"), [])


def test_a_question_without_its_photo_is_an_error_or_left_out(
    root: Path, write_files: Callable[..., Path]
) -> None:
    nameless = {name: value for name, value in ASKED.items() if name != "image_id"}
    write_files({"TextVQA_0.5.1_test.json": data(ASKED, nameless)})
    with pytest.raises(UserError, match=r"TextVQA_0.5.1_test.json item 2: no `image_id`; the keys are"):
        Release("textvqa", str(root), None, "test").load()
    splits = Release("textvqa", str(root), None, "test", on_error=OnError.skip).load()
    assert (len(splits.validation), len(splits.skipped)) == (1, 1)
