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
    (root / "val2014").mkdir()
    Image.new("RGB", (4, 4)).save(root / "val2014/COCO_val2014_000000000001.jpg")
    lines = [
        {"question_id": number, "image": "COCO_val2014_000000000001.jpg", "text": text, "label": label}
        for number, text, label in ((1, "Is there a cat?", "yes"), (2, "Is there a bus?", "no"))
    ]
    for split in ("random", "popular", "adversarial"):
        (root / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release(
        "pope",
        str(root),
        None,
        "random+popular+adversarial",
        on_error=OnError(on_error),
    ).load()


def test_the_three_splits_are_groups_with_ids_of_their_own(release: Path) -> None:
    rows = load(release).validation
    assert rows["group"][::2] == ["random", "popular", "adversarial"]
    assert len(set(rows["id"])) == 6
    assert rows[3] == {
        "id": "popular/2",
        "group": "popular",
        "image": str(release / "val2014/COCO_val2014_000000000001.jpg"),
        "question": "Is there a bus?",
        "answers": ["no"],
    }


def test_the_prompt_is_that_of_vqav2_as_in_the_paper(release: Path) -> None:
    task = TextTask("answer en {question}", "answers")
    example = ExampleDataset(load(release).validation, task, "validation")[0]
    assert (example.prefix, example.suffixes) == ("answer en Is there a cat?", ("yes",))


def test_a_missing_key_is_named_or_left_out(release: Path) -> None:
    file = release / "coco_pope_popular.json"
    file.write_text(file.read_text().replace('"label": "no"', '"answer": "no"'))
    with pytest.raises(
        UserError, match=r"popular.json line 2: no `label`; .*question_id, image, text, answer"
    ):
        load(release)
    splits = load(release, "skip")
    assert (len(splits.validation), len(splits.skipped)) == (5, 1)
