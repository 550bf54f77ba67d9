import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.data.options import OnError
from finetune.data.published import Vqav2, Vqav2Files
from finetune.data.rows import Splits
from finetune.errors import UserError

NOTHING = {"questions": None, "annotations": None, "image_dir": None}


def write_split(root: Path, subset: str, count: int = 3) -> None:
    """The official files of one split, in little."""
    folder = root / subset
    folder.mkdir(parents=True)
    questions, annotations = [], []
    for number in range(count):
        Image.new("RGB", (4, 4)).save(folder / f"COCO_{subset}_{number:012d}.jpg")
        ids = {"image_id": number, "question_id": number * 1000}
        questions.append({**ids, "question": f"what is {number}?"})
        answers = [{"answer": f"a{i}", "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]
        annotations.append({**ids, "answer_type": "other", "answers": answers})
    head = {"info": {"questions": "not these"}, "data_subtype": subset}
    (root / f"v2_OpenEnded_mscoco_{subset}_questions.json").write_text(
        json.dumps({**head, "questions": questions})
    )
    (root / f"v2_mscoco_{subset}_annotations.json").write_text(
        json.dumps({**head, "annotations": annotations[::-1]})
    )


def write_release(root: Path) -> None:
    write_split(root, "train2014", 3)
    write_split(root, "val2014", 2)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path) -> Splits:
    return Vqav2(root=str(root)).load()


def test_the_release_is_found_by_its_own_file_names(release: Path) -> None:
    train, validation, _ = load(release)
    assert (len(train), len(validation)) == (3, 2)
    assert train[2] == {
        "id": "0",
        "group": "other",
        "image": str(release / "train2014/COCO_train2014_000000000000.jpg"),
        "question": "what is 0?",
        "answers": [f"a{i}" for i in range(1, 11)],
    }


def test_single_files_are_read_as_given(release: Path) -> None:
    files: dict[str, Any] = {
        "questions": str(release / "v2_OpenEnded_mscoco_val2014_questions.json"),
        "annotations": str(release / "v2_mscoco_val2014_annotations.json"),
        "image_dir": str(release / "val2014"),
    }
    train, validation, _ = Vqav2(train=Vqav2Files(**files), validation=Vqav2Files(**files)).load()
    assert train["id"][:] == validation["id"][:] == ["1000", "0"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no annotations", "No file .*v2_mscoco_train2014_annotations.json"),
        ("no images", "No folder .*train2014"),
        ("half", "ends in the middle of the array `annotations`"),
        ("wrong file", "no array `annotations`"),
        ("other questions", "question 7 is not in"),
        ("no image", "question 0: no image `COCO_train2014_000000000000.jpg`"),
        ("no subset", "expected `data_subtype`"),
    ],
)
def test_damage_is_named_with_its_file(release: Path, damage: str, message: str) -> None:
    annotations = release / "v2_mscoco_train2014_annotations.json"
    questions = release / "v2_OpenEnded_mscoco_train2014_questions.json"
    match damage:
        case "no annotations":
            annotations.unlink()
        case "no images":
            (release / "train2014").rename(release / "elsewhere")
        case "half":
            text = annotations.read_text()
            annotations.write_text(text[: len(text) * 3 // 4])
        case "wrong file":
            annotations.write_text(questions.read_text())
        case "other questions":
            annotations.write_text('{"annotations": [{"question_id": 7, "answers": []}]}')
        case "no image":
            (release / "train2014/COCO_train2014_000000000000.jpg").unlink()
        case "no subset":
            questions.write_text(questions.read_text().replace("train2014", "test2015"))
    with pytest.raises(UserError, match=message):
        load(release)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        pytest.param(
            "questions",
            '"question_id": 1000',
            '"question_id": 0',
            "item 2: question 0 is duplicated",
            id="twice",
        ),
        pytest.param(
            "questions",
            '"image_id": 1',
            '"image_id": 2',
            "question 1000: `image_id` is 1, but 2 in",
            id="another image",
        ),
        pytest.param(
            "annotations",
            '"image_id": 1',
            '"image_id": "1"',
            "question 1000: `image_id`: expected a whole",
            id="an id as text",
        ),
        pytest.param(
            "annotations",
            '"answer": "a3"',
            '"answer": ""',
            "question 2000: `answers` item 3: `answer`: expected a text",
            id="no text",
        ),
        pytest.param(
            "annotations",
            '{"answer": "a3", "answer_confidence": "yes", "answer_id": 3}',
            '"a3"',
            "question 2000: `answers` item 3: expected a JSON object",
            id="bare texts",
        ),
        pytest.param(
            "annotations",
            '{"answer": "a3", "answer_confidence": "yes", "answer_id": 3}, ',
            "",
            "question 2000 has 9 answers",
            id="nine",
        ),
    ],
)
def test_questions_and_answers_that_do_not_fit_are_named_or_left_out(
    release: Path, file: str, old: str, new: str, message: str
) -> None:
    name = {
        "questions": "v2_OpenEnded_mscoco_train2014_questions",
        "annotations": "v2_mscoco_train2014_annotations",
    }
    path = release / f"{name[file]}.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load(release)
    splits = Vqav2(root=str(release), on_error=OnError.skip).load()
    assert len(splits.train) == 2
    assert re.search(message, splits.skipped[0])


def test_a_file_that_is_not_given_is_asked_for(release: Path) -> None:
    files = {**NOTHING, "questions": str(release / "v2_OpenEnded_mscoco_train2014_questions.json")}
    with pytest.raises(UserError, match="dataset.train.annotations= is missing"):
        Vqav2(train=Vqav2Files(**files), validation=Vqav2Files(**files)).load()
