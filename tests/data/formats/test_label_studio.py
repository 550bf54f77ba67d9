import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from finetune.codecs.brush import decode_brush
from finetune.data.rows import Splits
from finetune.errors import UserError
from tests.data.formats.exports import encode_brush

BOX = {"x": 10, "y": 10, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}


def result(value: Any, **more: Any) -> dict[str, Any]:
    sides = {"original_width": 20, "original_height": 10, "image_rotation": 0}
    return {"id": "r", "type": "rectanglelabels", "from_name": "tag", "value": value, **sides, **more}


def task(*results: Any, image: str = "/data/upload/1/1a2b3c4d-a.png", **more: Any) -> dict[str, Any]:
    annotations = [{"id": 1, "result": list(results), "was_cancelled": False}]
    return {"id": 5, "data": {"image": image}, "annotations": annotations, **more}


def write(folder: Path, *tasks: Any) -> Path:
    (folder / "project.json").write_text(json.dumps(tasks))
    return folder / "project.json"


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    return pictures("a.png", "shelf/b.png")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param("/data/upload/1/1a2b3c4d-a.png", "a.png", id="uploaded"),
        pytest.param("/data/local-files/?d=root/shelf/b.png", "shelf/b.png", id="local file"),
        pytest.param("/data/local-files/?d=root%2Fshelf%2Fb.png", "shelf/b.png", id="quoted"),
        pytest.param("https://host:8080/data/shelf/b.png?token=1", "shelf/b.png", id="address"),
        pytest.param("s3://bucket/a.png", "a.png", id="bucket"),
        pytest.param("a.png", "a.png", id="name"),
    ],
)
def test_images_are_found_by_the_names_of_the_server(
    folder: Path, load: Callable[..., Splits], name: str, file: str
) -> None:
    row = load("label_studio", write(folder, task(result(BOX), image=name))).train[0]
    assert row["image"] == str(folder / file)
    assert row["objects"][0]["box_xyxy"] == pytest.approx([2, 1, 8, 5])


def test_a_turned_box_turns_around_its_corner(folder: Path, load: Callable[..., Splits]) -> None:
    box = {**BOX, "x": 50, "y": 10, "width": 20, "height": 20, "rotation": 90}
    (found,) = load("label_studio", write(folder, task(result(box)))).train[0]["objects"]
    assert found["box_xyxy"] == pytest.approx([8, 1, 10, 5])


def test_labels_may_be_a_result_of_their_own(folder: Path, load: Callable[..., Splits]) -> None:
    plain = {key: value for key, value in BOX.items() if key != "rectanglelabels"}
    label = result({**plain, "labels": ["dog"]}, type="labels", from_name="label")
    (found,) = load("label_studio", write(folder, task(result(plain), label))).train[0]["objects"]
    assert found["label"] == "dog"


def test_the_first_annotation_that_was_kept_is_read(
    folder: Path,
    load: Callable[..., Splits],
    reported: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "finetune")
    several = task(result(BOX))
    second = {**several["annotations"][0], "result": [result({**BOX, "rectanglelabels": ["dog"]})]}
    several["annotations"] = [{**several["annotations"][0], "was_cancelled": True}, second, second]
    none = {**task(), "id": 6, "annotations": []}
    splits = load("label_studio", write(folder, several, none))
    assert [item["label"] for item in splits.train[0]["objects"]] == ["dog"]
    assert "item 2: the task has no annotation." in splits.skipped[0]
    assert "tasks have several annotations, of which the first was read: 1" in reported()


def test_a_task_with_an_empty_annotation_has_no_objects(folder: Path, load: Callable[..., Splits]) -> None:
    rows = load("label_studio", write(folder, task(result(BOX)), {**task(), "id": 6})).train
    assert rows["objects"][1] == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(result({**BOX, "x": 120}), "to lie inside the picture", id="outside"),
        pytest.param(result({**BOX, "x": "left"}), "`x`: expected a number", id="text"),
        pytest.param(result({**BOX, "rectanglelabels": None}), "it has no label", id="no label"),
        pytest.param(result(BOX, original_width=30), "expected an image of 30 x 10", id="other size"),
        pytest.param(result(BOX, image_rotation=90), "the image was turned", id="turned"),
        pytest.param(
            result({"points": [[1, 2], [3]], "polygonlabels": ["cat"]}),
            "expected points [x, y]",
            id="points",
        ),
        pytest.param(
            result({"format": "rle", "rle": [1, 2], "brushlabels": ["cat"]}), "`rle` ends", id="brush"
        ),
    ],
)
def test_a_bad_region_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], bad: Any, message: str
) -> None:
    file = write(folder, task({**result(BOX), "id": "good"}, bad))
    assert len(load_with_fault("label_studio", file, message)[0]["objects"]) == 1


def test_a_missing_image_says_how_to_get_it(folder: Path, load: Callable[..., Splits]) -> None:
    with pytest.raises(UserError, match=r"item 1: no image `c.png` .* download the images, and pass"):
        load("label_studio", write(folder, task(result(BOX), image="/data/upload/1/c.png")))


def test_a_column_that_is_not_there_lists_those_that_are(folder: Path, load: Callable[..., Splits]) -> None:
    row = {"image": "a.png", "caption": "a cat", "annotator": 1, "annotation_id": 1}
    with pytest.raises(UserError, match=r"dataset.columns captions: text; it has: caption"):
        load("label_studio", write(folder, row), columns={"captions": "text"})


def test_texts_of_several_kinds_become_columns(folder: Path, load: Callable[..., Splits]) -> None:
    results = [
        {"value": {"choices": ["red", "blue"]}, "from_name": "color", "type": "choices", "id": "1"},
        {"value": {"text": ["a cat"]}, "from_name": "caption", "type": "textarea", "id": "2"},
        {"value": {"rating": 4}, "from_name": "stars", "type": "rating", "id": "3"},
        {"value": {"taxonomy": [["pet", "cat"]]}, "from_name": "kind", "type": "taxonomy", "id": "4"},
    ]
    columns = {"captions": "caption", "suffix": "kind"}
    row = load("label_studio", write(folder, task(*results)), columns=columns).train[0]
    assert (row["color"], row["captions"], row["stars"]) == ("red, blue", ["a cat"], "4")
    assert row["suffixes"] == ["pet / cat"]


@pytest.mark.parametrize("seed", range(4))
def test_a_brush_is_read_as_it_was_written(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 13)) < 0.4
    assert np.array_equal(decode_brush(encode_brush(mask.ravel()), (9, 13)), mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        pytest.param([1, 2], "ends before them", id="short"),
        pytest.param([300], "numbers from 0 to 255", id="no byte"),
        pytest.param("AAAA", "numbers from 0 to 255", id="text"),
        pytest.param(
            encode_brush(np.zeros(12, bool)), "Expected `rle` of an image of 2 x 2", id="other size"
        ),
    ],
)
def test_what_is_no_brush_is_refused(rle: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_brush(rle, (2, 2))
