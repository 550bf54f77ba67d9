import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from finetune.codecs.rle import decode_rle
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.objects import ObjectsOptions

Content = dict[str, list[dict[str, Any]]]


@pytest.fixture
def content(pictures: Callable[..., Path]) -> Content:
    """A picture with a box, a mask and a crowd, and one with nothing."""
    pictures("img/0.png", "img/1.png")
    annotations: list[dict[str, Any]] = [
        {"id": 1, "image_id": 70, "category_id": 9, "bbox": [2, 1, 6, 4]},
        {"id": 2, "image_id": 70, "category_id": 4, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0},
        {"id": 3, "image_id": 70, "category_id": 4, "bbox": [10, 0, 10, 10], "iscrowd": 1},
    ]
    annotations[1]["segmentation"] = [[0, 0, 4, 0, 4, 4, 0, 4]]
    annotations[2]["segmentation"] = {"size": [10, 20], "counts": [100, 100]}
    return {
        "images": [
            {"id": 70, "file_name": "img/0.png", "width": 20, "height": 10},
            {"id": 3, "file_name": "img/1.png"},
        ],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "animals"}, {"id": 4, "name": "dog"}, {"id": 9, "name": "cat"}],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "_annotations.coco.json"


def test_a_picture_is_a_row_with_its_objects(
    content: Content, file: Path, load: Callable[..., Splits]
) -> None:
    file.write_text(json.dumps(content))
    full, empty = load("coco", file).train
    cat, dog, crowd = full.pop("objects")
    image = str(file.parent / "img/0.png")
    assert full == {"id": "70", "group": None, "image": image, "width": 20, "height": 10}
    plain = {"iscrowd": 0, "area": None, "mask_rle": None}
    assert cat == {"label": "cat", "box_xyxy": [2.0, 1.0, 8.0, 5.0], **plain}
    assert (dog["label"], dog["area"], decode_rle(dog["mask_rle"], (10, 20)).sum()) == ("dog", 16.0, 16)
    assert crowd["iscrowd"] == 1
    assert np.array_equal(np.flatnonzero(decode_rle(crowd["mask_rle"], (10, 20)).any(0)), range(10, 20))
    assert (empty["id"], empty["objects"]) == ("3", [])


def test_the_folder_of_an_export_stands_for_its_file(
    content: Content, file: Path, load: Callable[..., Splits]
) -> None:
    file.write_text(json.dumps(content))
    assert load("coco", file.parent).train["id"][:] == ["70", "3"]


def test_crowds_are_neither_written_nor_classes(
    content: Content, file: Path, load: Callable[..., Splits]
) -> None:
    file.write_text(json.dumps(content))
    task = ObjectsOptions("detect {labels}", ["cat", "dog"]).build()
    example = ExampleDataset(load("coco", file).train, task, "train")[0]
    assert example.prefix == "detect cat ; dog"
    expected = "<loc0102><loc0102><loc0512><loc0409> cat ; <loc0000><loc0000><loc0409><loc0205> dog"
    assert example.suffixes == (expected,)


NAN = float("nan")
POLYGON = {"bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 1, 1]]}
SMALL = {"bbox": [0, 0, 2, 2], "segmentation": {"size": [9, 20], "counts": [100, 80]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"bbox": [28, 0, 6, 4]}, "annotation 4: object `dog`: ", id="outside"),
        pytest.param({"bbox": [5, 5, -3, 4]}, "is it inverted", id="inverted"),
        pytest.param({"bbox": [5, 5, 0, 4]}, "to have an area", id="empty"),
        pytest.param({"bbox": [5, NAN, 2, 4]}, "to be finite", id="not a number"),
        pytest.param({"bbox": [5, 2, 2]}, "a box of four numbers", id="three numbers"),
        pytest.param({"bbox": None}, "a box of four numbers", id="no box"),
        pytest.param(POLYGON, "three or more points", id="polygon of two points"),
        pytest.param(
            SMALL, "run lengths of size (10, 20), but got (9, 20)", id="run lengths of another size"
        ),
        pytest.param({"image_id": 5}, "annotation 4: there is no image 5", id="image not listed"),
        pytest.param({"category_id": 5}, "there is no category 5 in the list. It has: 0", id="category"),
        pytest.param({"id": 3}, "annotation id 3 is duplicated", id="id twice"),
    ],
)
def test_a_bad_annotation_is_named_or_left_out(
    content: Content,
    file: Path,
    load_with_fault: Callable[..., Dataset],
    change: dict[str, Any],
    message: str,
) -> None:
    sound = {"id": 4, "image_id": 70, "category_id": 4, "bbox": [0, 0, 2, 2]}
    content["annotations"].append({**sound, **change})
    file.write_text(json.dumps(content))
    rows = load_with_fault("coco", file, message)
    assert [len(objects) for objects in rows["objects"]] == [3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"file_name": "img/7.png"}, "image 8: no image `img/7.png`", id="no file"),
        pytest.param({"file_name": 7}, "image 8: expected the name of an image", id="no name"),
        pytest.param({"file_name": "../x.png"}, "is outside", id="outside the folder"),
        pytest.param({"width": 20, "height": 11}, "expected an image of 20 x 11 pixels", id="another size"),
        pytest.param({"width": 10, "height": 20}, "without its EXIF rotation?", id="turned"),
        pytest.param({"id": 3}, "image id 3 is duplicated", id="id twice"),
    ],
)
def test_a_bad_picture_is_named_or_left_out(
    content: Content,
    file: Path,
    load_with_fault: Callable[..., Dataset],
    change: dict[str, Any],
    message: str,
) -> None:
    content["images"].append({"id": 8, "file_name": "img/1.png", **change})
    file.write_text(json.dumps(content))
    assert load_with_fault("coco", file, message)["id"][:] == ["70", "3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not whole JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"images": [], "annotations": []}', "no `categories`; the keys are: images, annotations"),
        ('{"images": {}, "annotations": [], "categories": []}', "`images` must be a list, got dict"),
        ('{"images": [], "annotations": [], "categories": []}', "has no rows"),
    ],
)
def test_a_file_that_is_none_of_instances_is_refused(
    file: Path, load: Callable[..., Splits], text: str, message: str
) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load("coco", file)


def test_a_turned_photo_is_measured_upright(
    content: Content, file: Path, load: Callable[..., Splits]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(file.parent / "img/1.png", exif=exif)
    file.write_text(json.dumps(content))
    row = load("coco", file).train[1]
    assert (row["width"], row["height"]) == (10, 20)
