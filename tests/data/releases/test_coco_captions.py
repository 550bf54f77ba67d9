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
    """Two photos to train on, one of them of COCO's own validation set, and one to test."""
    images = []
    parts = [("train2014", "train"), ("val2014", "restval"), ("val2014", "val")]
    for number, (folder, split) in enumerate(parts):
        (root / folder).mkdir(exist_ok=True)
        name = f"COCO_{folder}_{number:012d}.jpg"
        Image.new("RGB", (4, 4)).save(root / folder / name)
        sentences = [
            {"tokens": ["a"], "raw": f"A photo, number {n}.", "sentid": n} for n in range(5 + number)
        ]
        ids = {"imgid": number, "cocoid": number * 10}
        images.append({**ids, "filepath": folder, "filename": name, "split": split, "sentences": sentences})
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("coco_captions", str(root), "train+restval", "val", on_error=OnError(on_error)).load()


def test_a_row_is_a_photo_with_all_of_its_captions(release: Path) -> None:
    splits = load(release)
    assert splits.train["id"][:] == ["0", "10"]
    assert [len(texts) for texts in splits.train["captions"]] == [5, 6]
    assert splits.validation[0] == {
        "id": "20",
        "group": None,
        "image": str(release / "val2014/COCO_val2014_000000000002.jpg"),
        "captions": [f"A photo, number {number}." for number in range(7)],
    }


def test_the_prompt_is_the_papers(release: Path) -> None:
    example = ExampleDataset(load(release).train, TextTask("caption en", "captions"), "train")[0]
    assert example.prefix == "caption en"
    assert example.suffixes[3] == "A photo, number 3."


def test_a_missing_photo_is_named_or_left_out(release: Path) -> None:
    (release / "val2014/COCO_val2014_000000000001.jpg").unlink()
    with pytest.raises(UserError, match=r"item 2: no image `val2014/COCO_val2014_000000000001.jpg`"):
        load(release)
    splits = load(release, "skip")
    assert (len(splits.train), len(splits.validation), len(splits.skipped)) == (1, 1, 1)
