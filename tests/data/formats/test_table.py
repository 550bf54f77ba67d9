import csv
import io
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.text import TextTask


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    return pictures("a.png", "b.png")


def write(file: Path, *lines: str) -> Path:
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def write_parquet(file: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def test_csv_stays_the_text_that_it_is(folder: Path, load: Callable[..., Splits]) -> None:
    file = folder / "train.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows(
            [
                ["image", "question", "answers", "id", "group"],
                ["a.png", 'how "many",\nthere?', "007", "q1", "x"],
                ["b.png", "2020-01-02", "NA", "", ""],
            ]
        )
    rows = load("table", file).train
    assert rows[0] == {
        "id": "q1",
        "group": "x",
        "image": str(folder / "a.png"),
        "question": 'how "many",\nthere?',
        "answers": ["007"],
        "width": 20,
        "height": 10,
    }
    assert (rows[1]["id"], rows[1]["question"], rows[1]["answers"]) == ("2", "2020-01-02", ["NA"])


def test_columns_are_renamed_and_lists_divided(folder: Path, load: Callable[..., Splits]) -> None:
    file = write(folder / "train.tsv", "picture\tq\tlabel\tnote", "a.png\twhat?\tcat| a cat\tn")
    names = {"image": "picture", "question": "q", "answers": "label"}
    rows = load("table", file, columns=names, separator="|").train
    assert (rows[0]["answers"], rows[0]["note"]) == (["cat", "a cat"], "n")
    example = ExampleDataset(rows, TextTask("answer en {question}", "answers"), "train")[0]
    assert (example.prefix, example.suffixes) == ("answer en what?", ("cat", "a cat"))


def test_prefix_and_suffix_fit_the_task_text(folder: Path, load: Callable[..., Splits]) -> None:
    rows = load("table", write(folder / "x.csv", "image,prefix,suffix", "a.png,caption en,red")).train
    assert ExampleDataset(rows, TextTask("{prefix}", "suffixes"), "train")[0].suffixes == ("red",)


def test_choices_and_the_letter_of_the_right_one(folder: Path, load: Callable[..., Splits]) -> None:
    file = write(folder / "x.csv", "image,question,choices,answer", "a.png,which?,cat;dog,B")
    example = ExampleDataset(load("table", file, separator=";").train, _choice(), "train")[0]
    assert example.suffixes == ("B dog",)


def _choice() -> ChoiceTask:
    return ChoiceTask(
        "{question} {choices}", "({letter}) {text}", ", ", "{letter} {text}", False, "choices", "answer"
    )


def test_pictures_may_lie_inside_parquet(folder: Path, load: Callable[..., Splits]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "PNG")
    inside = {"bytes": stream.getvalue(), "path": "not/here.png"}
    file = write_parquet(
        folder / "x.parquet", image=[inside, {"bytes": None, "path": "a.png"}], question=["?", "!"]
    )
    rows = load("table", file).train
    assert rows[0]["image"] == inside
    assert (rows[0]["width"], rows[1]["width"]) == (6, 20)
    example = ExampleDataset(rows, TextTask("{question}", "question"), "train")[0]
    assert example.images[0].size == (6, 4)
    bare = write_parquet(folder / "y.parquet", image=[stream.getvalue()])
    assert load("table", bare).train[0]["height"] == 4
    assert len(load("table", file, validation=None, validation_fraction=0.5).train) == 1


def test_parquets_numbers_and_lists_become_text(folder: Path, load: Callable[..., Splits]) -> None:
    columns = {
        "id": [7],
        "number": [0.5],
        "flag": [True],
        "day": [date(2020, 1, 2)],
        "boxes": [[{"x": 1}]],
        "captions": [["a", "b"]],
        "answers": pa.array([None], pa.string()),
    }
    row = load("table", write_parquet(folder / "x.parquet", image=["a.png"], **columns)).train[0]
    assert row["id"] == "7"
    assert (row["number"], row["flag"], row["day"]) == ("0.5", "true", "2020-01-02")
    assert json.loads(row["boxes"]) == [{"x": 1}]
    assert (row["captions"], row["answers"]) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("a.png,x,y", "line 3: 3 values for 2 columns", id="too many"),
        pytest.param("a.png", "line 3: 1 values for 2 columns", id="too few"),
        pytest.param("c.png,x", "line 3: no image `c.png`", id="no picture"),
        pytest.param(",x", "line 3: expected the name of an image, got ''", id="no name"),
        pytest.param("../x.png,x", "is outside", id="outside"),
        pytest.param(f"{'A' * 3000},x", "line 3: expected the name of an image", id="picture as text"),
        pytest.param("x.csv,x", "not an image that Pillow can read", id="not a picture"),
    ],
)
def test_a_bad_line_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], line: str, message: str
) -> None:
    file = write(folder / "x.csv", "image,question", "a.png,?", line)
    assert load_with_fault("table", file, message)["id"][:] == ["1"]


def test_an_id_twice_and_a_wrong_letter_are_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset]
) -> None:
    file = write(folder / "x.csv", "image,id", "a.png,1", "b.png,1")
    assert len(load_with_fault("table", file, "id `1` is duplicated")) == 1
    write(file, "image,choices,answer", "a.png,x;y,0", "b.png,x;y,both")
    assert len(load_with_fault("table", file, "line 3: expected the index", separator=";")) == 1


def test_bytes_in_a_column_of_text_are_a_fault(
    folder: Path, load_with_fault: Callable[..., Dataset]
) -> None:
    columns = {"image": ["a.png", "b.png"], "mask": pa.array([None, b"xyz"])}
    file = write_parquet(folder / "x.parquet", **columns)
    assert len(load_with_fault("table", file, "row 2: a value is 3 bytes, expected text")) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": "asked"}, r"no column `asked` \(dataset.columns.question\); it has: picture, q."),
        ({}, r"no column `image` \(dataset.columns.image\); it has: picture, q."),
    ],
)
def test_a_column_that_is_not_there_lists_those_that_are(
    folder: Path, load: Callable[..., Splits], columns: dict[str, str], message: str
) -> None:
    file = write(folder / "x.csv", "picture,q", "a.png,?")
    with pytest.raises(UserError, match=message):
        load("table", file, columns=columns)


def test_the_validation_file_must_have_the_columns_too(folder: Path, load: Callable[..., Splits]) -> None:
    train = write(folder / "x.csv", "image,q", "a.png,?")
    validation = write(folder / "y.csv", "image", "a.png")
    with pytest.raises(UserError, match=r"y.csv has no column `q`.*it has: image"):
        load("table", train, validation=str(validation))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b'image,q\na.png,"open', "x.csv line 2: unexpected end of data"),
        ("x.csv", b"image,q,q\na.png,1,2", "two columns have the same name"),
        ("x.csv", b"image,q\na.png,caf\xe9", "x.csv line 2: not UTF-8"),
        ("x.parquet", b"PAR1", "x.parquet: not a parquet file that can be read"),
        ("x.xlsx", b"", "expected a file that ends in .csv, .tsv, .json, .jsonl"),
        ("x.csv", b"image,q\n", "x.csv has no rows"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    folder: Path, load: Callable[..., Splits], name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load("table", folder / name)
