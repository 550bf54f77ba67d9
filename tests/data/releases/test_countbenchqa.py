from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as Picture
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from tests.data.releases.conftest import write_tree

QUESTIONS = "countbench_paired_questions.json"


def write_release(root: Path) -> None:
    """Four rows, the second without a picture, the third gray."""
    pictures = [Image.new("RGB", (4, 4)), None, Image.new("L", (4, 4)), Image.new("RGBA", (4, 4))]
    features = Features({"image": Picture(), "text": Value("string"), "number": Value("int32")})
    rows = {"image": pictures, "text": ["x"] * 4, "number": [10, 2, 3, 4]}
    write_tree(
        root, {QUESTIONS: [{"question": f"How many {what}?"} for what in ("cups", "dogs", "hats", "cows")]}
    )
    Dataset.from_dict(rows, features=features).to_parquet(str(root / "train-00000-of-00001-cf54.parquet"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_a_question_with_a_picture_in_color_is_answered_by_a_number(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("countbenchqa", "vqa", root)
    assert len(splits.train) == 0
    row = splits.validation[0]
    assert {name: value for name, value in row.items() if name != "image"} == {
        "id": "0",
        "group": None,
        "question": "How many cups?",
        "answers": ["10"],
    }
    assert splits.validation["id"][:] == ["0", "3"]
    assert (examples[1].prefix, examples[1].suffixes) == ("answer en How many cows?", ("4",))
    assert examples[1].images[0].mode == "RGB"


def test_a_question_without_its_text_is_an_error_or_left_out(
    root: Path, write_files: Callable[..., Path]
) -> None:
    write_files({QUESTIONS: [{"question": "How many cups?"}, {}, {}, {"text": "x"}]})
    with pytest.raises(UserError, match=rf"{QUESTIONS} item 4: no `question`; the keys are: text"):
        Release("countbenchqa", str(root), None, "test").load()
    splits = Release("countbenchqa", str(root), None, "test", on_error=OnError.skip).load()
    assert (len(splits.validation), len(splits.skipped)) == (1, 1)


def test_files_that_do_not_belong_together_are_refused(
    root: Path, write_files: Callable[..., Path]
) -> None:
    write_files({QUESTIONS: [{"question": "How many cups?"}]})
    with pytest.raises(UserError, match="has 1 questions for 4 images"):
        Release("countbenchqa", str(root), None, "test").load()
    next(root.glob("*.parquet")).unlink()
    with pytest.raises(UserError, match="No train-\\*.parquet in"):
        Release("countbenchqa", str(root), None, "test").load()
