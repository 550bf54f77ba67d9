from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from finetune.data.recognition.kinds import Kind
from finetune.data.recognition.recognize import recognize

PICTURE = ImageFeature()
TURN = {"user": Value("string"), "assistant": Value("string")}
BOXES = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=["cup"]))}


def build(features: dict[str, Any], **columns: Any) -> Dataset:
    image = Image.new("RGB", (20, 10))
    first = {name: [image] if isinstance(features[name], List) else image for name in columns.pop("images")}
    rows = {name: [value] * 3 for name, value in {**first, **columns}.items()}
    return Dataset.from_dict(rows, features=Features(features))


def questions() -> Dataset:
    features = {"image": PICTURE, "question": Value("string"), "label": Value("string")}
    return build(features, images=["image"], question="what?", label="cup")


def classes() -> Dataset:
    return build({"img": PICTURE, "label": ClassLabel(names=["cup"])}, images=["img"], label=0)


def boxes() -> Dataset:
    objects = {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [0]}
    return build({"image": PICTURE, "objects": BOXES}, images=["image"], objects=objects)


def turns() -> Dataset:
    features = {"images": List(PICTURE), "texts": [TURN]}
    return build(features, images=["images"], texts=[{"user": "what?", "assistant": "a cup"}])


COLUMNS: list[Any] = [
    pytest.param(
        questions,
        Kind.question,
        {"columns.question": "question", "columns.answers": "label"},
        id="questions",
    ),
    pytest.param(classes, Kind.classes, {"columns.image": "img", "columns.answers": "label"}, id="classes"),
    pytest.param(
        boxes,
        Kind.detection,
        {"objects.boxes": "objects.bbox", "objects.labels": "objects.category"},
        id="boxes",
    ),
    pytest.param(turns, Kind.pairs, {}, id="turns"),
]


@pytest.mark.parametrize(("make", "kind", "options"), COLUMNS)
def test_a_saved_dataset_says_what_it_is_for(
    make: Callable[[], Dataset], kind: Kind, options: dict[str, str], tmp_path: Path
) -> None:
    DatasetDict(train=make(), test=make()).save_to_disk(tmp_path / "saved")
    name, splits, purpose = recognize(str(tmp_path / "saved"))
    assert (name, splits) == ("hub", {"train": "train", "test": "test"})
    assert (purpose.kind, purpose.options) == (kind, {"path": str(tmp_path / "saved"), **options})


@pytest.mark.parametrize(("make", "kind", "options"), COLUMNS)
def test_a_folder_of_parquet_says_it_too(
    make: Callable[[], Dataset], kind: Kind, options: dict[str, str], tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        make().to_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet")
    name, splits, purpose = recognize(str(tmp_path))
    assert (name, splits) == ("hub", {"train": "train", "validation": "validation"})
    assert (purpose.kind, purpose.options) == (kind, {"path": str(tmp_path), **options})
