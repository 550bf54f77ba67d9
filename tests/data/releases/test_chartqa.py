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

HUMAN = {"imgname": "41699051005347.png", "query": "How many food items?", "label": "14"}
AUGMENTED = {"imgname": "41699051005347.png", "query": "How many people in 2013?", "label": "0.57"}


def write_release(root: Path) -> None:
    files: dict[str, object] = {}
    for split in ("train", "val", "test"):
        files |= {
            f"{split}/{split}_human.json": [HUMAN],
            f"{split}/{split}_augmented.json": [AUGMENTED, AUGMENTED],
            f"{split}/png/41699051005347.png": None,
        }
    write_tree(root, files)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def test_human_and_augmented_questions_come_together_and_keep_their_group(
    root: Path, load_choice: Callable[..., tuple[Splits, ExampleDataset]]
) -> None:
    splits, examples = load_choice("chartqa", "question", root, "dataset.validation=test")
    assert splits.validation["id"][:] == ["human-0", "augmented-0", "augmented-1"]
    assert splits.validation[1] == {
        "id": "augmented-0",
        "group": "augmented",
        "image": str(root / "test/png/41699051005347.png"),
        "question": "How many people in 2013?",
        "answers": ["0.57"],
    }
    assert (examples[0].prefix, examples[0].suffixes) == ("How many food items?", ("14",))


def test_a_missing_chart_is_an_error_or_left_out(root: Path) -> None:
    (root / "val/png/41699051005347.png").unlink()
    with pytest.raises(UserError, match=r"val_human.json item 1: no image `41699051005347.png`"):
        Release("chartqa", str(root), "train", "val").load()
    splits = Release("chartqa", str(root), "train", "val", on_error=OnError.skip).load()
    assert (len(splits.train), len(splits.validation), len(splits.skipped)) == (3, 0, 3)


def write_real_release(root: Path, samples: Path) -> list[dict[str, Any]]:
    """A sample of the test split, which is returned; `split` says which file a question is of."""
    sample: list[dict[str, Any]] = json.loads((samples / "chartqa.json").read_text(encoding="utf-8"))
    shutil.copytree(samples / "chartqa", root / "test/png")
    for source in ("human", "augmented"):
        items = [{**one, "imgname": Path(one["image"]).name} for one in sample if one["split"] == source]
        (root / f"test/test_{source}.json").write_text(json.dumps(items))
    return sample


@pytest.mark.parity
def test_real_questions_find_their_charts(parity_data: Path, tmp_path: Path) -> None:
    sample = write_real_release(tmp_path, parity_data / "images")
    rows = Release("chartqa", str(tmp_path), None, "test").load().validation
    examples = ExampleDataset(rows, TextTask("{question}", "answers"), "test")
    assert sorted(rows["question"][:]) == sorted(one["query"] for one in sample)
    assert all(min(examples[index].images[0].size) > 100 for index in range(len(examples)))
