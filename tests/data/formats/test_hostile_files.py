"""Files with one thing wrong in them: every reader names the place, or leaves that one out."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from finetune.data.options import Jsonl
from finetune.data.rows import Splits
from finetune.errors import UserError

DEEP = "[" * 100_000
ROW: dict[str, Any] = {"image": "0.png", "prefix": "caption en", "suffix": "red"}
TALK: dict[str, Any] = {
    "image": "0.png",
    "conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a cup"}],
}
BOX: dict[str, Any] = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [2, 1, 6, 4]}


def answer(question: str, reply: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    return pictures("0.png", "1.png")


def write_lines(file: Path, sound: dict[str, Any], bad: dict[str, Any] | str | bytes) -> Path:
    """Write five sound rows and a bad one as JSON Lines."""
    text = bad if isinstance(bad, bytes) else (bad if isinstance(bad, str) else json.dumps(bad)).encode()
    sound_line = json.dumps(sound).encode()
    file.write_bytes(b"\n".join([*[sound_line] * 5, text, sound_line]) + b"\n")
    return file


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(DEEP, "nested too deeply", id="nested deep"),
        pytest.param(b'{"image": "0.png", "prefix": "caf\xe9", "suffix": "x"}', "not UTF-8", id="latin-1"),
        pytest.param(
            '{"image": "0.png", "prefix": "a", "prefix": "b"}',
            "`prefix` is in one object twice",
            id="key twice",
        ),
        pytest.param({**ROW, "suffix": ""}, "`suffix` has an empty text", id="empty"),
        pytest.param({**ROW, "suffix": " \t"}, "`suffix` has an empty text", id="blank"),
        pytest.param({**ROW, "suffix": ["a", ""]}, "`suffix` has an empty text", id="one of several empty"),
        pytest.param(
            {**ROW, "suffix": "\ud800"}, r"'\ud800', half of a surrogate", id="surrogate in suffix"
        ),
        pytest.param({**ROW, "prefix": "\udfff"}, "half of a surrogate pair", id="surrogate in prefix"),
        pytest.param({**ROW, "id": "\udfff"}, "half of a surrogate pair", id="surrogate in id"),
        pytest.param({**ROW, "id": "1"}, "id `1` is duplicated", id="id twice"),
        pytest.param({**ROW, "id": ["1"]}, "`id` must be a text or a number", id="id is a list"),
        pytest.param({**ROW, "group": {}}, "`group` must be a text or a number", id="group is an object"),
        pytest.param(
            {**ROW, "image": "x" * 300}, "cannot be looked up (File name too long)", id="long name"
        ),
        pytest.param({**ROW, "image": "loop.png"}, "image `loop.png`", id="link to itself"),
        pytest.param({**ROW, "image": "pipe.png"}, "no image `pipe.png`", id="pipe"),
        pytest.param({**ROW, "image": "."}, "no image `.`", id="folder"),
        pytest.param({**ROW, "image": "a\\0.png"}, "no image", id="backslash"),
        pytest.param({**ROW, "image": "cut.jpg"}, "cut.jpg` cannot be decoded", id="cut JPEG"),
        pytest.param({**ROW, "image": "cut.png"}, "cannot be decoded", id="cut PNG"),
        pytest.param({**ROW, "image": "huge.png"}, "12000 x 12000 pixels, more than", id="too many pixels"),
        pytest.param(
            {**ROW, "image": "wide.tif"}, "gray values from 0 to 1e+06", id="TIFF without a scale"
        ),
    ],
)
def test_a_bad_line_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], bad: Any, message: str
) -> None:
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(noise).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:-200])
    header = b"IHDR" + struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", crc32(header))
    (folder / "huge.png").write_bytes(head + struct.pack(">I", 9) + b"IDAT" + b"\0" * 9)
    Image.fromarray(np.array([[0, 1_000_000]], np.int32)).save(folder / "wide.tif")
    file = write_lines(folder / "train.jsonl", ROW, bad)
    rows = load_with_fault("jsonl", file, message)
    assert rows["id"][:] == ["1", "2", "3", "4", "5", "7"]
    with pytest.raises(UserError, match=r"train\.jsonl line 6: .*"):
        Jsonl(train=str(file), validation=str(file)).load()


def test_an_id_that_is_null_is_the_lines_number(folder: Path, load: Callable[..., Splits]) -> None:
    file = write_lines(folder / "train.jsonl", {**ROW, "id": None}, {**ROW, "id": 8.5})
    assert load("jsonl", file).train["id"][:] == ["1", "2", "3", "4", "5", "8.5", "7"]


@pytest.mark.parametrize("prefix", ["detect cup ; dog", "segment cup"])
def test_no_object_of_those_asked_for_is_an_answer(
    folder: Path, load: Callable[..., Splits], prefix: str
) -> None:
    file = write_lines(folder / "train.jsonl", ROW, {**ROW, "prefix": prefix, "suffix": ""})
    assert load("jsonl", file).train["suffixes"][5] == [""]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(
            {"conversations": answer("what?", " ")}, "`answer 1` has an empty text", id="blank answer"
        ),
        pytest.param({"conversations": answer("<bbox>?", "a")}, "the placeholder <bbox>", id="bbox"),
        pytest.param(
            {"conversations": answer("a", "<ref-object>")}, "placeholder <ref-object>", id="ref-object"
        ),
        pytest.param({"conversations": answer("<video>?", "a")}, "the placeholder <video>", id="video"),
        pytest.param({"conversations": answer("<audio>?", "a")}, "the placeholder <audio>", id="audio"),
        pytest.param(
            {"objects": {"ref": ["a"], "bbox": [[1, 2, 3, 4]]}},
            "`objects`: 1 in `ref` for 0 <ref-object> in the turns",
            id="objects",
        ),
        pytest.param({"conversations": [7]}, "expected a JSON object, got int", id="turn is a number"),
        pytest.param({"conversations": "x"}, "no list `conversations`", id="turns are a text"),
        pytest.param({"image": {"a": 1}}, "expected the name of an image", id="image is an object"),
        pytest.param({"image": [7]}, "expected the name of an image", id="image is a number"),
        pytest.param({"conversations": answer("\ud800", "a")}, "half of a surrogate pair", id="surrogate"),
        pytest.param({"id": {}}, "`id` must be a text or a number", id="id is an object"),
    ],
)
def test_a_bad_conversation_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], bad: dict[str, Any], message: str
) -> None:
    file = folder / "talk.json"
    file.write_text(json.dumps([TALK, {**TALK, **bad}, TALK]))
    rows = load_with_fault("conversations", file, f"{file} item 2")
    assert rows["id"][:] == ["1/1", "3/1"]
    assert load_with_fault("conversations", file, message)["id"][:] == ["1/1", "3/1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            "image,prefix,suffix\n0.png,p,a\n0.png,p,\n", "line 3: `suffixes` has an empty", id="suffix"
        ),
        pytest.param(
            "image,question,answers\n0.png,p,a\n0.png,p, \n", "line 3: `answers` has an", id="answers"
        ),
        pytest.param(
            "image,question,answer\n0.png,p,a\n0.png,p,\n", "line 3: `answer` has an", id="answer"
        ),
        pytest.param("image,captions\n0.png,a\n0.png,\n", "line 3: `captions` has an empty", id="captions"),
        pytest.param("image,x\n0.png,a\n0.png,b\udce9\n", "line 3: not UTF-8", id="latin-1"),
        pytest.param(
            "image,question,choices,answer\n0.png,p,a,0\n0.png,p,a,12345678901234567890\n",
            "line 3: a value is not of the expected type or size (OverflowError",
            id="a choice of 20 digits",
        ),
    ],
)
def test_a_bad_row_of_a_table_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], content: str, message: str
) -> None:
    file = folder / "x.csv"
    file.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert load_with_fault("table", file, message)["id"][:] == ["1"]


def test_rows_of_empty_cells_are_blank(folder: Path, load: Callable[..., Splits]) -> None:
    (folder / "x.csv").write_text("image,q\n0.png,a\n,\n1.png,b\n,\n")
    assert load("table", folder / "x.csv").train["q"][:] == ["a", "b"]


CHANGES = [
    pytest.param({"iscrowd": 2}, "`iscrowd` to be 0 or 1, but got 2", id="iscrowd 2"),
    pytest.param({"iscrowd": 300}, "`iscrowd` to be 0 or 1", id="iscrowd 300"),
    pytest.param({"iscrowd": []}, "`iscrowd` to be 0 or 1", id="iscrowd is a list"),
    pytest.param({"area": float("nan")}, "`area` to be a number of pixels", id="area is not a number"),
    pytest.param({"area": -1}, "`area` to be a number of pixels", id="area is negative"),
    pytest.param({"area": []}, "annotation 5", id="area is a list"),
    pytest.param({"bbox": [0.1, 0.2, 0.3, 0.4]}, "shares of width and height", id="shares"),
    pytest.param({"bbox": [7, 8, 0.5, 0.5]}, "to be a pixel or more", id="less than a pixel"),
    pytest.param({"bbox": "1234"}, "a box of four numbers", id="box is a text"),
    pytest.param({"bbox": [1, 2, 10**400, 4]}, "a box of four numbers", id="box is huge"),
    pytest.param({"category_id": [1]}, "there is no category [1]", id="category is a list"),
    pytest.param({"category_id": 2}, "there is no category 2", id="category without a name"),
    pytest.param({"image_id": [1]}, "`image_id` must be a number or a text", id="image is a list"),
    pytest.param({"id": [5]}, "annotation number 2: `id` must be a number", id="id is a list"),
    pytest.param({"id": None}, "annotation number 2: `id` must be a number", id="id is null"),
    pytest.param(
        {"segmentation": [[500, 500, 510, 500, 510, 510]]}, "its mask to be in", id="mask elsewhere"
    ),
    pytest.param(
        {"segmentation": {"size": [40, 40]}},
        "`size`, height and width, and `counts`",
        id="mask without runs",
    ),
    pytest.param({"segmentation": [7]}, "annotation 5", id="mask of a number"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_bad_annotation_is_named_or_left_out(
    tmp_path: Path, load_with_fault: Callable[..., Dataset], change: dict[str, Any], message: str
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
    content = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "annotations": [{**BOX, "id": 1}, {**BOX, **change}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    rows = load_with_fault("coco", tmp_path / "a.json", message)
    assert [len(objects) for objects in rows["objects"]] == [1]


@pytest.mark.parametrize("name", [None, "", " ", [], True])
def test_a_category_without_a_name_is_refused(
    tmp_path: Path, load_with_fault: Callable[..., Dataset], name: Any
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": name}]
    content = {"images": [{"id": 1, "file_name": "0.png"}], "annotations": [], "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert len(load_with_fault("coco", tmp_path / "a.json", "category 2 has the name")) == 1


ENDINGS = {
    "jsonl": "x.jsonl",
    "conversations": "x.json",
    "table": "x.csv",
    "coco": "x.json",
    "voc": "x.txt",
    "yolo": "x.yaml",
    "webdataset": "x.tar",
    "image_folder": "metadata.jsonl",
}


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "loop", "UTF-16", "deep", "binary", "empty", "long", "nul"]
)
@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_a_file_that_is_wrong_as_a_whole_is_one_message(
    folder: Path, load: Callable[..., Splits], name: str, kind: str, on_error: str
) -> None:
    file = folder / ENDINGS[name]
    texts = {
        "UTF-16": json.dumps(ROW).encode("utf-16"),
        "deep": DEEP.encode(),
        "binary": bytes(range(256)) * 9,
        "empty": b"",
    }
    if kind == "folder":
        file.mkdir()
        (file / "notes.md").touch()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "long":
        file = folder / ("x" * 300 + ENDINGS[name])
    elif kind == "nul":
        file = folder / ("x\0" + ENDINGS[name])
    else:
        file.write_bytes(texts[kind])
    with pytest.raises(UserError) as error:
        load(name, file, on_error=on_error)
    message = str(error.value)
    assert str(file.name)[:20] in message
    assert "\n" not in message
    if kind == "folder":
        assert "notes.md" in message


def test_a_second_folder_that_was_never_typed_is_named_with_its_option(
    folder: Path, load: Callable[..., Splits]
) -> None:
    write_lines(folder / "train.jsonl", ROW, ROW)
    with pytest.raises(UserError, match=r"No file valid \(dataset\.validation\).*recipe"):
        load("jsonl", folder / "train.jsonl", validation="valid")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("names: tit", "`names` must be a list such as", id="names is a text"),
        pytest.param("names: [tit, '']", "class 1 has the name ''", id="a name is empty"),
        pytest.param("names: [tit, [a]]", "class 1 has the name", id="a name is a list"),
        pytest.param("names: [tit]\nnc: 2", "`nc` is 2, but `names` has 1", id="another number of classes"),
        pytest.param(
            "names: [tit]\ntask: pose", "`kpt_shape` of a pose dataset", id="pose without a shape"
        ),
        pytest.param("names: [tit]\nkpt_shape: 3", "`kpt_shape` of a pose dataset", id="shape is a number"),
        pytest.param("names: " + DEEP, "nested too deeply", id="deep"),
        pytest.param("names: !!python/object:os.system x", "data.yaml", id="tag"),
    ],
)
def test_a_bad_data_yaml_is_named(
    pictures: Callable[..., Path], load: Callable[..., Splits], content: str, message: str
) -> None:
    folder = pictures("images/0.png")
    (folder / "labels").mkdir()
    (folder / "labels/0.txt").write_text("0 0.5 0.5 0.2 0.2")
    (folder / "data.yaml").write_text(f"train: images\nval: images\n{content}")
    with pytest.raises(UserError) as error:
        load("yolo", folder, validation=None)
    assert message in str(error.value)


def test_keypoints_are_left_out_and_said(
    pictures: Callable[..., Path], load: Callable[..., Splits], caplog: pytest.LogCaptureFixture
) -> None:
    folder = pictures("images/0.png")
    (folder / "labels").mkdir()
    (folder / "labels/0.txt").write_text("0 0.5 0.5 0.5 0.4 0.4 0.5 0.6 0.5\n")
    (folder / "data.yaml").write_text("train: images\nval: images\nnames: [tit]\nkpt_shape: [2, 2]")
    (found,) = load("yolo", folder, validation=None).train["objects"][0]
    assert found["box_xyxy"] == pytest.approx([5, 3, 15, 7])
    assert found["mask_rle"] is None
    assert [record.message for record in caplog.records if "keypoints" in record.message]
    (folder / "labels/0.txt").write_text("0 0.5 0.5 0.5 0.4 0.4 0.5\n")
    with pytest.raises(UserError, match=r"0\.txt line 1: .* the 4 of `kpt_shape`, got 6 numbers"):
        load("yolo", folder, validation=None)


def test_rotated_boxes_have_no_mask(pictures: Callable[..., Path], load: Callable[..., Splits]) -> None:
    folder = pictures("images/0.png")
    (folder / "labels").mkdir()
    (folder / "labels/0.txt").write_text("0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n")
    (folder / "data.yaml").write_text("train: images\nval: images\nnames: [tit]\ntask: obb")
    (found,) = load("yolo", folder, validation=None).train["objects"][0]
    assert found["box_xyxy"] == pytest.approx([2, 1, 18, 9])
    assert found["mask_rle"] is None


def test_a_folder_without_its_data_yaml_says_what_it_holds(
    pictures: Callable[..., Path], load: Callable[..., Splits]
) -> None:
    folder = pictures("images/0.png")
    (folder / "names.txt").write_text("tit")
    with pytest.raises(UserError, match=r"has no data\.yaml\. It holds: images, names\.txt\."):
        load("yolo", folder, validation=None)


@pytest.mark.parametrize("image_dir", ["/", None, "other"])
def test_absolute_names_of_images_are_read_from_anywhere(
    folder: Path, load: Callable[..., Splits], image_dir: str | None
) -> None:
    (folder / "other").mkdir()
    place = str(folder / (image_dir or ""))
    rows = {**ROW, "image": str(folder / "0.png")}
    file = write_lines(folder / "train.jsonl", rows, rows)
    assert len(load("jsonl", file, image_dir=place).train) == 7
