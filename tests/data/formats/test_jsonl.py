import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.data.formats.jsonl import has_lists
from finetune.data.options import Jsonl
from finetune.data.rows import Splits
from finetune.errors import UserError

ROW = {"image": "img/0.png", "prefix": "caption en", "suffix": "red"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"img/{number}.png")
    return tmp_path


def write(folder: Path, *rows: Any, name: str = "train.jsonl") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def load(file: str, **options: Any) -> Splits:
    return Jsonl(
        train=file,
        **{
            "validation": file,
            "validation_fraction": None,
            "image_dir": None,
            "on_error": "error",
            **options,
        },
    ).load()


def test_a_row_becomes_prefix_suffixes_and_a_path(folder: Path) -> None:
    rows = load(write(folder, {**ROW, "id": "a", "group": 3}, {**ROW, "suffix": ["x", "y"]})).train
    assert rows[0] == {
        "id": "a",
        "group": "3",
        "image": str(folder / "img/0.png"),
        "prefix": "caption en",
        "suffixes": ["red"],
        "width": 4,
        "height": 4,
    }
    assert rows[1]["suffixes"] == ["x", "y"]
    assert rows[1]["id"] == "2"


def test_blank_lines_a_byte_order_mark_and_any_script_are_read(folder: Path) -> None:
    file = write(folder, "\ufeff" + json.dumps({**ROW, "suffix": "猫"}, ensure_ascii=False), "", ROW)
    assert load(file).train["suffixes"][:] == [["猫"], ["red"]]


def test_a_changed_file_is_read_again(folder: Path) -> None:
    assert len(load(write(folder, ROW)).train) == 1
    assert len(load(write(folder, ROW, ROW, ROW)).train) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"image": "img/0.png", "prefix": "x"', "line 2: not a whole JSON object"),
        ("[1]", "line 2: expected a JSON object, got list"),
        ({"image": "img/0.png", "prefix": "x"}, "line 2: no `suffix`; the keys are: image, prefix"),
        ({**ROW, "suffix": []}, "line 2: `suffix` must be a string or a list"),
        ({**ROW, "suffix": False}, "line 2: `suffix` must be a string or a list"),
        ({**ROW, "prefix": None}, "line 2: `prefix` must be a string, got None"),
        ({**ROW, "image": "img/99.png"}, "line 2: no image `img/99.png` under"),
        ({**ROW, "image": "../../etc/passwd"}, "line 2: image `../../etc/passwd` is outside"),
        ({**ROW, "id": "1"}, "id `1` is duplicated"),
    ],
)
def test_a_bad_line_is_named_with_its_file(folder: Path, bad: Any, message: str) -> None:
    file = write(folder, ROW, bad)
    with pytest.raises(UserError) as error:
        load(file)
    assert str(error.value).startswith(file)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_an_error(folder: Path, text: str) -> None:
    (folder / "train.jsonl").write_text(text)
    with pytest.raises(UserError, match="has no rows"):
        load(str(folder / "train.jsonl"))


def test_a_missing_file_and_a_missing_folder_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match="No file nowhere.jsonl"):
        load("nowhere.jsonl")
    with pytest.raises(UserError, match="No folder .*nowhere; pass dataset.image_dir"):
        load(write(folder, ROW), image_dir=str(folder / "nowhere"))


def test_a_share_held_out_keeps_rows_of_one_picture_together(folder: Path) -> None:
    rows = [{**ROW, "image": f"img/{i % 10}.png", "suffix": str(i)} for i in range(40)]
    splits = load(write(folder, *rows), validation=None, validation_fraction=0.25)
    assert (len(splits.train), len(splits.validation)) == (32, 8)
    assert set(splits.train["image"][:]).isdisjoint(splits.validation["image"][:])


def test_one_picture_cannot_be_divided(folder: Path) -> None:
    with pytest.raises(UserError, match="at least two different images"):
        load(write(folder, ROW, ROW), validation=None, validation_fraction=0.5)


def test_an_object_as_the_answer_is_its_json(tmp_path: Path, load: Callable[..., Splits]) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    row = {"image": "a.png", "prefix": "extract", "suffix": {"total": 7, "shop": "Café"}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert load("jsonl", tmp_path / "a.jsonl").train[0]["suffixes"] == ['{"total": 7, "shop": "Café"}']


@pytest.mark.parametrize(
    ("row", "several"),
    [
        pytest.param({"image": ["a.png", "b.png"]}, True, id="images"),
        pytest.param({"image": "a.png", "suffix": ["a", "b"]}, False, id="another list"),
        pytest.param({"image": "[a].png"}, False, id="a bracket in a name"),
    ],
)
def test_a_list_of_images_is_found_in_any_line(tmp_path: Path, row: dict[str, Any], several: bool) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ({"image": "a.png"}, row, {"image": "b.png"}))))
    assert has_lists(str(file), "image") is several
