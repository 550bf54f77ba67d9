from collections.abc import Callable
from math import factorial
from pathlib import Path
from typing import Any

import pytest

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.releases.infovqa import MOST_ITEMS, permute_items
from finetune.data.rows import Splits
from finetune.errors import UserError
from tests.data.releases.conftest import write_tree

ASKED = {"questionId": 98313, "question": "Which two?", "image_local_name": "38427.jpeg"}
ANSWERED = {**ASKED, "answers": ["Cats, Dogs"], "answer_type": ["multi-span"], "data_split": "x"}


def data(*items: dict[str, Any]) -> dict[str, Any]:
    return {"dataset_name": "infographicVQA", "data": list(items)}


def write_release(root: Path) -> None:
    write_tree(
        root,
        {
            "infographicsVQA_train_v1.0.json": data(ANSWERED),
            "infographicsVQA_val_v1.0_withQT.json": data(ANSWERED),
            "infographicsVQA_test_v1.0.json": data(ASKED),
            "images/38427.jpeg": None,
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_validation_accepts_the_items_of_an_answer_in_any_order(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("infovqa", "vqa", root, "task.lower=true")
    assert splits.validation[0] == {
        "id": "98313",
        "group": None,
        "image": str(root / "images/38427.jpeg"),
        "question": "Which two?",
        "answers": ["Cats, Dogs", "Dogs, Cats"],
    }
    assert (examples[0].prefix, examples[0].suffixes) == ("answer en Which two?", ("cats, dogs",))


def test_the_test_split_has_no_answers(root: Path) -> None:
    rows = Release("infovqa", str(root), None, "test").load().validation
    assert rows["answers"][:] == [[]]


@pytest.mark.parametrize(
    ("answers", "orders"),
    [
        pytest.param(["a", "b"], ["a", "b"], id="single items"),
        pytest.param(["a, b", "b, a", "c"], ["a, b", "b, a", "c"], id="an order that stands there already"),
        pytest.param(["a, a"], ["a, a"], id="equal items"),
        pytest.param(["1,000"], ["1,000"], id="a comma inside a number"),
    ],
)
def test_every_order_stands_once(answers: list[str], orders: list[str]) -> None:
    assert permute_items(answers) == orders


def test_a_long_list_keeps_its_own_order_alone() -> None:
    items = [str(number) for number in range(MOST_ITEMS)]
    assert len(permute_items([", ".join(items)])) == factorial(MOST_ITEMS)
    longer = ", ".join([*items, "more"])
    assert permute_items([longer]) == [longer]


def test_a_missing_picture_is_an_error_or_left_out(root: Path) -> None:
    (root / "images/38427.jpeg").unlink()
    with pytest.raises(UserError, match=r"infographicsVQA_train_v1.0.json item 1: no image `38427.jpeg`"):
        Release("infovqa", str(root), "train", "val").load()
    assert len(Release("infovqa", str(root), "train", "val", on_error=OnError.skip).load().skipped) == 2
