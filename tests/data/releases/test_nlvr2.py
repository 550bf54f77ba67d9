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
    """Training photos lie in numbered folders, the others do not."""
    (root / "data").mkdir()
    for split, place in (("train", "train/34"), ("dev", "dev")):
        folder = root / "images" / place
        folder.mkdir(parents=True)
        for side in (0, 1):
            Image.new("RGB", (4 + side, 4)).save(folder / f"{split}-70-3-img{side}.png")
        lines = [
            {
                "identifier": f"{split}-70-3-{number}",
                "sentence": f"There are {number} dogs.",
                "label": label,
            }
            for number, label in enumerate(("True", "False"))
        ]
        if split == "train":
            lines = [{**line, "directory": "34"} for line in lines]
        (root / f"data/{split}.json").write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("nlvr2", str(root), "train", "dev", on_error=OnError(on_error)).load()


def test_a_row_is_a_sentence_with_both_photos(release: Path) -> None:
    splits = load(release)
    assert splits.train[0]["images"][1] == str(release / "images/train/34/train-70-3-img1.png")
    assert splits.validation[1] == {
        "id": "dev-70-3-1",
        "group": None,
        "images": [str(release / f"images/dev/dev-70-3-img{side}.png") for side in (0, 1)],
        "question": "There are 1 dogs.",
        "answers": ["False"],
    }


def test_training_photos_may_lie_in_one_folder(release: Path) -> None:
    for file in (release / "images/train/34").iterdir():
        file.rename(release / "images/train" / file.name)
    (release / "images/train/34").rmdir()
    assert load(release).train[0]["images"][0] == str(release / "images/train/train-70-3-img0.png")


def test_the_prompt_is_the_papers(release: Path) -> None:
    task = TextTask("answer en {question}", "answers")
    example = ExampleDataset(load(release).train, task, "train")[0]
    assert (example.prefix, example.suffixes) == ("answer en There are 0 dogs.", ("True",))
    assert [image.size for image in example.images] == [(4, 4), (5, 4)]


def test_faults_are_named_or_left_out(release: Path) -> None:
    (release / "images/dev/dev-70-3-img1.png").unlink()
    with pytest.raises(UserError, match="dev.json line 1: no image `dev-70-3-img1.png`"):
        load(release)
    assert len(load(release, "skip").skipped) == 2
    with (release / "data/train.json").open("a") as lines:
        lines.write('{"identifier": "tra')
    with pytest.raises(UserError, match="train.json line 3: not a whole JSON"):
        Release("nlvr2", str(release), "train", "train").load()
