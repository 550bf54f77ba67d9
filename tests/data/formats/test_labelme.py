import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from finetune.codecs.rle import decode_rle
from finetune.data.rows import Splits
from finetune.errors import UserError


def shape(kind: str, points: Any, **more: Any) -> dict[str, Any]:
    return {"label": "cat", "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


GOOD = shape("rectangle", [[8, 5], [2, 1]])


def write(folder: Path, *shapes: Any, **more: Any) -> Path:
    content = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.png"}
    (folder / "a.json").write_text(
        json.dumps({**content, "imageData": None, "imageHeight": 10, "imageWidth": 20, **more})
    )
    return folder


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    return pictures("a.png")


def test_the_corners_of_a_rectangle_may_be_in_any_order(folder: Path, load: Callable[..., Splits]) -> None:
    row = load("labelme", write(folder, GOOD)).train[0]
    assert (row["id"], row["objects"][0]["box_xyxy"]) == ("a", [2, 1, 8, 5])


def test_polygons_of_a_group_are_one_object(folder: Path, load: Callable[..., Splits]) -> None:
    left, right = [[0, 0], [4, 0], [4, 4], [0, 4]], [[10, 4], [14, 4], [14, 8], [10, 8]]
    shapes = [shape("polygon", points, group_id=1) for points in (left, right)]
    (found,) = load("labelme", write(folder, *shapes)).train[0]["objects"]
    assert found["box_xyxy"] == [0, 0, 14, 8]
    assert decode_rle(found["mask_rle"], (10, 20)).sum() == 32


def test_a_circle_is_its_center_and_a_point_on_it(folder: Path, load: Callable[..., Splits]) -> None:
    (found,) = load("labelme", write(folder, shape("circle", [[10, 5], [10, 9]]))).train[0]["objects"]
    assert found["box_xyxy"] == pytest.approx([6, 1, 14, 9])


def test_a_mask_is_drawn_inside_its_rectangle(folder: Path, load: Callable[..., Splits]) -> None:
    png = io.BytesIO()
    Image.fromarray(np.eye(3, dtype=np.uint8) * 255).save(png, "PNG")
    mask = base64.b64encode(png.getvalue()).decode()
    (found,) = load("labelme", write(folder, shape("mask", [[4, 2], [6, 4]], mask=mask))).train[0][
        "objects"
    ]
    pixels = decode_rle(found["mask_rle"], (10, 20)).nonzero()
    assert sorted(zip(*pixels, strict=True)) == [(2, 4), (3, 5), (4, 6)]
    assert found["box_xyxy"] == [4, 2, 7, 5]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(shape("rectangle", [[1, 2]]), "expected 2 points or more, got 1", id="one point"),
        pytest.param(shape("polygon", [[1, 2], [3]]), "expected points [x, y]", id="half a point"),
        pytest.param(shape("polygon", None), "`points`: expected a list", id="no points"),
        pytest.param(shape("blob", [[1, 2], [3, 4]]), "the shape `blob` is unknown", id="kind"),
        pytest.param({"points": [[1, 2], [3, 4]]}, "no `label`", id="no label"),
        pytest.param(shape("rectangle", [[30, 1], [40, 5]]), "to lie inside the picture", id="outside"),
        pytest.param(shape("rectangle", [[2, 1], [2, 5]]), "to have an area", id="no area"),
        pytest.param(shape("mask", [[1, 2], [3, 4]], mask="?"), "not a PNG in base64", id="no mask"),
        pytest.param(7, "expected a JSON object", id="no shape"),
    ],
)
def test_a_bad_shape_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], bad: Any, message: str
) -> None:
    rows = load_with_fault("labelme", write(folder, GOOD, bad), message)
    assert len(rows[0]["objects"]) == 1


def test_a_bad_file_is_named(folder: Path, load: Callable[..., Splits]) -> None:
    with pytest.raises(UserError, match=r"a.json: no image `b.png`"):
        load("labelme", write(folder, GOOD, imagePath="b.png"))
    with pytest.raises(UserError, match=r"a.json: expected an image of 30 x 10 pixels"):
        load("labelme", write(folder, GOOD, imageWidth=30))
    (folder / "a.json").write_text('{"version": "5.5.0", "shapes": [')
    with pytest.raises(UserError, match=r"a.json: not whole JSON"):
        load("labelme", folder)


def test_images_without_a_file_of_their_own_are_counted(
    folder: Path, load: Callable[..., Splits], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="finetune")
    Image.new("RGB", (20, 10)).save(folder / "b.jpg")
    Image.new("RGB", (20, 10)).save(folder / "c.jpg")
    assert len(load("labelme", write(folder, GOOD)).train) == 1
    assert (
        f"images without a JSON file, which are left out: 2; the first: {folder / 'b.jpg'}" in caplog.text
    )
