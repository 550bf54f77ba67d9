import json
from pathlib import Path

import pytest
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask


def write_release(root: Path) -> None:
    """Two pictures a split, whose five captions each stand between the other's."""
    (root / "train_images").mkdir()
    for split in ("train", "val"):
        data = []
        for number in range(10):
            name = f"{split}{number % 2}"
            Image.new("RGB", (4, 4)).save(root / f"train_images/{name}.jpg")
            ids = {"image_id": name, "image_name": name, "caption_id": number}
            data.append({**ids, "caption_str": f"A sign says STOP {number}."})
        (root / f"TextCaps_0.1_{split}.json").write_text(
            json.dumps({"dataset_name": "textcaps", "data": data})
        )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("textcaps", str(root), "train", "val", on_error=OnError(on_error)).load()


def test_a_row_is_a_picture_with_all_of_its_captions(release: Path) -> None:
    splits = load(release)
    assert splits.train["id"][:] == ["train0", "train1"]
    assert splits.validation[1] == {
        "id": "val1",
        "group": None,
        "image": str(release / "train_images/val1.jpg"),
        "captions": [f"A sign says STOP {number}." for number in (1, 3, 5, 7, 9)],
    }


def test_prompt_and_captions_are_the_papers(release: Path) -> None:
    task = TextTask("caption en", "captions", lower=True)
    example = ExampleDataset(load(release).train, task, "train")[0]
    assert example.prefix == "caption en"
    assert example.suffixes[0] == "a sign says stop 0."


def test_a_missing_picture_is_named_or_left_out(release: Path) -> None:
    (release / "train_images/val0.jpg").unlink()
    with pytest.raises(UserError, match=r"TextCaps_0.1_val.json: image val0: no image `val0.jpg`"):
        load(release)
    splits = load(release, "skip")
    assert (len(splits.train), len(splits.validation), len(splits.skipped)) == (2, 1, 1)
