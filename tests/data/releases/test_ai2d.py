import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.images import Picture
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask

TASK = ChoiceTask("answer en  {question} choose from: {choices}", "{text}", " \t ", "{text}")
GREY = (90, 90, 90)


def write_diagram(root: Path, stem: str) -> None:
    """A grey picture with a question on what is seen and one on letters, which lie in two rectangles."""
    for folder in ("questions", "annotations", "images"):
        (root / folder).mkdir(exist_ok=True)
    Image.new("RGB", (60, 40), GREY).save(root / f"images/{stem}.png")
    answers = {"answerTexts": ["a", "b", "c", "d"], "correctAnswer": 2}
    questions = {
        "What eats grass?": {**answers, "questionId": f"{stem}.png-0", "abcLabel": False},
        "What is A?": {**answers, "questionId": f"{stem}.png-1", "abcLabel": True},
    }
    texts = {
        "T0": {"rectangle": [[2, 3], [22, 33]], "replacementText": "A"},
        "T1": {"rectangle": [[50, 10], [40, 30]], "replacementText": "B"},
    }
    (root / f"questions/{stem}.png.json").write_text(
        json.dumps({"imageName": f"{stem}.png", "questions": questions})
    )
    (root / f"annotations/{stem}.png.json").write_text(json.dumps({"text": texts}))


def write_release(root: Path) -> None:
    for stem in ("0", "17", "170"):
        write_diagram(root, stem)
    (root / "ai2d_test_ids.csv").write_text("17\n")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("ai2d", str(root), "train", "test", on_error=OnError(on_error)).load()


def test_the_listed_diagrams_are_the_test_split(release: Path) -> None:
    splits = load(release)
    assert splits.train["id"][:] == ["0.png-0", "0.png-1", "170.png-0", "170.png-1"]
    assert splits.validation[0] == {
        "id": "17.png-0",
        "group": None,
        "image": {"bytes": None, "path": str(release / "images/17.png")},
        "question": "What eats grass?",
        "choices": ["a", "b", "c", "d"],
        "answer": 2,
    }


def test_letters_are_painted_black_on_white_where_the_words_stood(release: Path) -> None:
    plain, lettered = (
        np.asarray(Picture(row["image"], "").load()) for row in load(release).train.select([0, 1])
    )
    assert (plain == GREY).all()
    inside = np.zeros((40, 60), bool)
    inside[3:34, 2:23] = inside[10:31, 40:51] = True
    assert (lettered[~inside] == GREY).all()
    for box in (lettered[3:34, 2:23], lettered[10:31, 40:51]):
        assert (box[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
        ink = np.argwhere(box.max(axis=2) < 50)
        assert len(ink) > 10
        assert abs(ink.min(axis=0) + ink.max(axis=0) - np.array(box.shape[:2])).max() <= 4
    assert not np.array_equal(lettered[10:31, 2:13], lettered[10:31, 40:51])


def test_prompt_and_answer_are_the_papers(release: Path) -> None:
    example = ExampleDataset(load(release).train, TASK, "train")[1]
    assert example.prefix == "answer en  What is A? choose from: a \t b \t c \t d"
    assert example.suffixes == ("c",)
    assert example.images[0].size == (60, 40)


def test_a_missing_picture_is_named_or_left_out(release: Path) -> None:
    (release / "images/170.png").unlink()
    with pytest.raises(UserError, match=r"170.png.json: question `What eats grass\?`: no image `170.png`"):
        load(release)
    splits = load(release, "skip")
    assert (len(splits.train), len(splits.validation), len(splits.skipped)) == (2, 2, 2)


def test_without_the_list_of_the_test_split_nothing_is_read(release: Path) -> None:
    (release / "ai2d_test_ids.csv").unlink()
    with pytest.raises(UserError, match="No file .*ai2d_test_ids.csv"):
        load(release)
