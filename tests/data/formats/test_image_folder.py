import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask

PAIR = {"file_name": "sub/b.jpg", "prefix": "caption en", "suffix": "2020-01-02"}
BOXES = {"file_name": "a.jpg", "objects": {"bbox": [[2, 1, 6, 4]], "categories": ["cat"]}}


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    return pictures("a.jpg", "sub/b.jpg")


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_prefix_and_suffix_are_kept_as_they_are(folder: Path, load: Callable[..., Splits]) -> None:
    assert load("image_folder", write(folder, PAIR)).train[0] == {
        "id": "1",
        "group": None,
        "image": str(folder / "sub/b.jpg"),
        "prefix": "caption en",
        "suffixes": ["2020-01-02"],
        "width": 20,
        "height": 10,
    }


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_captions_are_read_from_any_metadata(
    folder: Path, load: Callable[..., Splits], ending: str
) -> None:
    file = folder / f"metadata.{ending}"
    match ending:
        case "csv":
            file.write_text("file_name,text\na.jpg,007\n")
        case "parquet":
            pq.write_table(pa.table({"file_name": ["a.jpg"], "text": ["007"]}), file)
        case "jsonl":
            write(folder, {"file_name": "a.jpg", "text": "007"})
    for train in (folder, file):
        rows = load("image_folder", train).train
        assert rows[0] == {"id": "1", "group": None, "image": str(folder / "a.jpg"), "captions": ["007"]}
    assert ExampleDataset(rows, TextTask("caption en", "captions"), "train")[0].suffixes == ("007",)


@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
def test_boxes_become_objects(folder: Path, load: Callable[..., Splits], names: list[str] | None) -> None:
    by_number = {"file_name": "sub/b.jpg", "objects": {"bbox": [[0, 0, 1, 1]], "categories": [1]}}
    rows = load("image_folder", write(folder, BOXES, *([by_number] if names else [])), names=names).train
    assert (rows[0]["width"], rows[0]["height"], rows[0]["group"]) == (20, 10, None)
    (cat,) = rows[0]["objects"]
    assert (cat["label"], cat["box_xyxy"]) == ("cat", [2.0, 1.0, 8.0, 5.0])
    assert [rows[1]["objects"][0]["label"]] == ["dog"] if names else len(rows) == 1


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        pytest.param(PAIR, {"suffix": {}}, "line 2: `suffix` must be a string", id="mixed types"),
        pytest.param(PAIR, {"prefix": None}, "line 2: `prefix` must be a string", id="null"),
        pytest.param(PAIR, {"file_name": "c.jpg"}, "line 2: no image `c.jpg`", id="no picture"),
        pytest.param(PAIR, {"file_name": 1}, "line 2: expected the name of an image", id="no name"),
        pytest.param(PAIR, {"id": "1"}, "id `1` is duplicated", id="id twice"),
        pytest.param(
            BOXES, {"objects": {"bbox": [[0, 0, 1, 1]]}}, "line 2: `objects` must be", id="one list"
        ),
        pytest.param(BOXES, {"objects": None}, "line 2: `objects` must be", id="no objects"),
        pytest.param(
            {"file_name": "a.jpg", "text": "x"}, {"text": ["y", True]}, "`text` must be", id="caption"
        ),
    ],
)
def test_a_bad_row_is_named_or_left_out(
    folder: Path,
    load_with_fault: Callable[..., Dataset],
    good: dict[str, Any],
    bad: dict[str, Any],
    message: str,
) -> None:
    write(folder, good, {**good, **bad})
    assert load_with_fault("image_folder", folder, message)["id"][:] == ["1"]


@pytest.mark.parametrize(
    ("box", "category", "message"),
    [
        pytest.param([28, 0, 6, 4], "cat", "line 2 object 2: object `cat`: ", id="outside"),
        pytest.param([5, 5, -3, 4], "cat", "is it inverted", id="inverted"),
        pytest.param([5, 5, 0, 4], "cat", "to have an area", id="empty"),
        pytest.param([5, float("nan"), 2, 4], "cat", "to be finite", id="not finite"),
        pytest.param([0, 0, 1, 1], "cow", "there is no class 'cow' in the list. It has: ", id="name"),
        pytest.param([0, 0, 1, 1], 2, "there is no class 2 in the list. It has: 0 (cat)", id="number"),
    ],
)
def test_a_bad_object_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], box: Any, category: Any, message: str
) -> None:
    objects = {"bbox": [[2, 1, 6, 4], box], "categories": ["cat", category]}
    write(folder, BOXES, {"file_name": "sub/b.jpg", "objects": objects})
    rows = load_with_fault("image_folder", folder, message, names=["cat", "dog"])
    assert [len(found) for found in rows["objects"]] == [1, 1]


def test_numbers_need_names(folder: Path, load_with_fault: Callable[..., Dataset]) -> None:
    write(folder, {"file_name": "a.jpg", "objects": {"bbox": [[0, 0, 1, 1]], "categories": [0]}})
    rows = load_with_fault("image_folder", folder, "object 1: class 0 is a number: pass dataset.names=")
    assert rows["objects"][:] == [[]]


def test_metadata_that_is_missing_twice_or_of_another_kind_is_refused(
    folder: Path, load: Callable[..., Splits]
) -> None:
    with pytest.raises(UserError, match="is a folder without one of metadata.jsonl, "):
        load("image_folder", folder)
    write(folder, {"file_name": "a.jpg", "label": 3})
    with pytest.raises(UserError, match="`objects`, or `text`; its columns are: file_name, label"):
        load("image_folder", folder)
    (folder / "metadata.csv").write_text("file_name,text\na.jpg,x\n")
    with pytest.raises(UserError, match="got metadata.jsonl and metadata.csv"):
        load("image_folder", folder)
