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
    "questionId": 337,
    "question": "What is the date?",
    "image": "documents/xnbl0037_1.png",
    "docId": 279,
}
ANSWERED = {**ASKED, "answers": ["1/8/93", "8 Jan"], "data_split": "x"}


def data(*items: dict[str, Any]) -> dict[str, Any]:
    return {"dataset_name": "docvqa", "data": list(items)}


def write_release(root: Path) -> None:
    write_tree(
        root,
        {
            "train_v1.0_withQT.json": data(ANSWERED),
            "val_v1.0_withQT.json": data(ANSWERED, {**ANSWERED, "questionId": 338}),
            "test_v1.0.json": data(ASKED),
            **{f"{split}/documents/xnbl0037_1.png": None for split in ("train", "val", "test")},
        },
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_a_document_is_asked_about_without_a_task_word(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("docvqa", "question", root)
    assert len(splits.validation) == 2
    assert splits.validation[0] == {
        "id": "337",
        "group": None,
        "image": str(root / "val/documents/xnbl0037_1.png"),
        "question": "What is the date?",
        "answers": ["1/8/93", "8 Jan"],
    }
    assert (examples[0].prefix, examples[0].suffixes) == ("What is the date?", ("1/8/93", "8 Jan"))


def test_the_test_split_has_another_name_and_no_answers(root: Path) -> None:
    rows = Release("docvqa", str(root), None, "test").load().validation
    assert rows["answers"][:] == [[]]


def test_a_page_outside_the_folder_is_an_error_or_left_out(
    root: Path, write_files: Callable[..., Path]
) -> None:
    write_files({"val_v1.0_withQT.json": data({**ANSWERED, "image": "../../a.png"}, ANSWERED)})
    with pytest.raises(UserError, match=r"val_v1.0_withQT.json item 1: image `../../a.png` is outside"):
        Release("docvqa", str(root), "train", "val").load()
    splits = Release("docvqa", str(root), "train", "val", on_error=OnError.skip).load()
    assert (len(splits.validation), len(splits.skipped)) == (1, 1)
