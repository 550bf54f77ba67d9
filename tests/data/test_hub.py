from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.data.hub import load_hub
from finetune.errors import UserError


def make_parquet(folder: Path, **columns: list[Any]) -> Path:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    folder.mkdir(exist_ok=True)
    count = len(next(iter(columns.values())))
    pictures = [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(count)]
    kind = columns.get("answers", [[{"answer": ""}]])[0]
    answers = List({"answer": Value("string")}) if isinstance(kind, list) else Value("string")
    features = Features(
        {
            "picture": ImageFeature(),
            **{name: Value("string") for name in columns if name != "answers"},
            **({"answers": answers} if "answers" in columns else {}),
        }
    )
    Dataset.from_dict({"picture": pictures, **columns}, features=features).to_parquet(
        str(folder / "train-00000.parquet")
    )
    return folder


def hub(folder: Path, **options: Any) -> dict[str, Any]:
    names: dict[str, str | None] = {
        "image": "picture",
        "question": "asked",
        "answers": "answers",
        "id": None,
        "group": None,
    }
    return {
        "path": str(folder),
        "name": None,
        "revision": None,
        "train": "train[:2]",
        "validation": "train[2:]",
        "columns": {**names, **options},
        "data_files": {},
        "objects": {"boxes": None, "labels": None, "layout": "xywh", "relative": False},
    }


def test_a_copy_in_parquet_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    folder = make_parquet(
        tmp_path / "copy",
        asked=["a?", "b?", "c?"],
        answers=[[{"answer": "x"}, {"answer": "y"}]] * 3,
        kind=["other", "number", "other"],
    )
    train, validation, _ = load_hub(**hub(folder, group="kind"))
    assert (len(train), len(validation)) == (2, 1)
    row = train[1]
    assert (row["id"], row["group"], row["question"], row["answers"]) == ("1", "number", "b?", ["x", "y"])
    assert set(row["image"]) == {"bytes", "path"}


def test_a_single_answer_becomes_a_list_of_one(tmp_path: Path) -> None:
    folder = make_parquet(tmp_path / "copy", asked=["a?", "b?", "c?"], answers=["x", "y", "z"])
    train = load_hub(**hub(folder)).train
    assert train["answers"][:] == [["x"], ["y"]]


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    folder = make_parquet(tmp_path / "copy", asked=["a?", "b?", "c?"], answers=["x", "y", "z"])
    with pytest.raises(UserError, match=r"no column `question` .*it has: picture, asked, answers"):
        load_hub(**hub(folder, question="question"))


def test_a_split_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    folder = make_parquet(tmp_path / "copy", asked=["a?", "b?", "c?"], answers=["x", "y", "z"])
    with pytest.raises(UserError, match=r"split `val`.*train"):
        load_hub(**{**hub(folder), "validation": "val"})
