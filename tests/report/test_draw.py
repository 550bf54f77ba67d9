from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.codecs.coco_mask import encode_rle
from finetune.errors import UserError
from finetune.example import PredictionRow, Rle, SceneObject
from finetune.report.draw import PALETTE, draw_objects, draw_prediction, draw_row, label_color

GREY = (128, 128, 128)


def grey(width: int = 400, height: int = 300) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def changed(image: Image.Image) -> np.ndarray:
    """(height, width) bool: where it is no longer grey."""
    return (pixels(image) != GREY).any(-1)


def mask_of(box: tuple[int, int, int, int], size: tuple[int, int] = (300, 400)) -> Rle:
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return encode_rle(mask)


def test_a_boxs_line_has_its_labels_colour_along_its_edge_and_nothing_inside() -> None:
    drawn = draw_objects(grey(), [{"label": "cat", "box_xyxy": [100, 80.2, 300.4, 250]}])
    colour = label_color("cat")
    array = pixels(drawn)
    for x, y in ((100, 165), (101, 165), (299, 165), (298, 165), (200, 249), (250, 80)):
        assert tuple(array[y, x]) == colour
    for x, y in ((97, 165), (302, 165), (200, 252)):
        assert tuple(array[y, x]) == GREY
    assert not changed(drawn)[85:245, 105:295].any()


def test_the_line_grows_with_the_picture() -> None:
    def line(side: int) -> int:
        box = [side / 4, side / 4, side * 3 / 4, side * 3 / 4]
        return int(
            changed(draw_objects(grey(side, side), [{"box_xyxy": box}]))[side // 2, : side // 2].sum()
        )

    assert line(200) == 2
    assert line(2000) == 10


def test_labels_keep_their_colour_and_differ() -> None:
    names = [f"class {number}" for number in range(40)]
    assert {label_color(name) for name in names} == set(PALETTE)
    assert label_color("cat") == (213, 94, 0)  # in every picture, process and version


def test_a_mask_tints_what_is_inside_and_nothing_outside() -> None:
    one: SceneObject = {
        "label": "cat",
        "box_xyxy": [100, 100, 200, 200],
        "mask_rle": mask_of((120, 120, 180, 160)),
    }
    array = pixels(draw_objects(grey(), [one])).astype(int)
    tint = np.rint(0.6 * np.array(GREY) + 0.4 * np.array(label_color("cat")))
    assert (array[125:155, 125:175] == tint).all()
    assert (array[120, 120:180] == label_color("cat")).all()  # its outline
    assert (array[163:197, 105:195] == GREY).all()
    assert (array[105:117, 105:195] == GREY).all()


def test_a_mask_is_outlined_at_the_pictures_edge_and_around_its_holes() -> None:
    mask = np.ones((300, 400), dtype=bool)
    mask[100:200, 100:200] = False
    one: SceneObject = {"label": "cat", "box_xyxy": [0, 0, 400, 300], "mask_rle": encode_rle(mask)}
    array = pixels(draw_objects(grey(), [{**one, "box_xyxy": [300, 250, 310, 260]}]))
    colour = label_color("cat")
    for x, y in ((0, 290), (399, 290), (150, 99), (99, 150), (200, 150), (150, 200)):
        assert tuple(array[y, x]) == colour
    assert tuple(array[150, 150]) == GREY


def test_a_small_object_lies_over_a_large_one_whatever_their_order() -> None:
    large: SceneObject = {"label": "b", "box_xyxy": [0, 0, 400, 300], "mask_rle": mask_of((0, 0, 400, 300))}
    small: SceneObject = {
        "label": "cat",
        "box_xyxy": [150, 100, 250, 200],
        "mask_rle": mask_of((150, 100, 250, 200)),
    }
    assert label_color("b") != label_color("cat")
    assert draw_objects(grey(), [large, small]) == draw_objects(grey(), [small, large])
    assert tuple(pixels(draw_objects(grey(), [small, large]))[150, 150]) == label_color("cat")


def test_an_empty_list_draws_nothing_and_the_picture_stays_as_it_was() -> None:
    image = grey()
    drawn = draw_objects(image, [])
    assert drawn == image
    assert drawn is not image
    drawn = draw_objects(image, [{"label": "cat", "score": 0.5, "box_xyxy": [1, 1, 90, 90]}])
    assert drawn != image
    assert image == grey()


def test_truth_is_dashed_in_black_and_white_over_what_was_found() -> None:
    box: list[float] = [100, 100, 300, 250]
    array = pixels(draw_objects(grey(), [{"label": "cat", "box_xyxy": box}], truth=[{"box_xyxy": box}]))
    top = {tuple(colour) for colour in array[100, 180:290].tolist()}
    left = {tuple(colour) for colour in array[130:240, 100].tolist()}
    right = {tuple(colour) for colour in array[130:240, 299].tolist()}
    bottom = {tuple(colour) for colour in array[249, 110:290].tolist()}
    assert top == left == right == bottom == {(0, 0, 0), (255, 255, 255)}
    assert (array[101, 180:299] == label_color("cat")).all()
    runs = np.count_nonzero(np.diff((array[130:250, 100] == 255).all(-1).astype(int)))
    assert 15 < runs < 40


@pytest.mark.parametrize(
    ("colour", "dark"), [((0, 114, 178), False), ((0, 158, 115), True), ((240, 228, 66), True)]
)
def test_a_tag_can_be_read_on_its_colour(colour: tuple[int, int, int], dark: bool) -> None:
    label = next(letter for letter in ascii_lowercase if label_color(letter) == colour)
    drawn = draw_objects(grey(), [{"label": label, "score": 0.25, "box_xyxy": [100, 100, 300, 250]}])
    tag = pixels(drawn)[80:100, 100:300][changed(drawn)[80:100, 100:300]]
    assert (tag == colour).all(-1).mean() > 0.4
    assert (tag == (0 if dark else 255)).all(-1).any()


def tag_pixels(**keys: Any) -> int:
    """Pixels above a box: its tag."""
    one: SceneObject = {"box_xyxy": [100, 100, 300, 250]}
    one.update(keys)  # type: ignore[typeddict-item]
    return int(changed(draw_objects(grey(), [one]))[:100].sum())


def test_a_tag_says_what_is_known() -> None:
    assert tag_pixels() == tag_pixels(label="", score=None, mask_rle=None) == 0
    assert 0 < tag_pixels(score=0.5) < tag_pixels(label="a cat", score=0.5)
    assert 0 < tag_pixels(label="a cat") < tag_pixels(label="a cat", score=0.5)
    assert tag_pixels(label="a\ncat") == tag_pixels(label="a cat")
    assert tag_pixels(label="half a character: \ud83d") > 0


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([0, 0, 400, 300], id="the whole picture"),
        pytest.param([350, 0, 400, 20], id="upper right"),
        pytest.param([380, 280, 400, 300], id="lower right"),
        pytest.param([-50, -50, 900, 900], id="beyond"),
        pytest.param([399.9, 299.9, 400, 300], id="the last pixel"),
        pytest.param([500, 500, 600, 600], id="outside"),
    ],
)
def test_tags_stay_inside_the_picture(box: list[float]) -> None:
    label: SceneObject = {"label": "giraffe", "score": 0.5}
    drawn = draw_objects(grey(), [{**label, "box_xyxy": box}])
    free = draw_objects(grey(), [{**label, "box_xyxy": [100, 100, 101, 101]}])
    ink = [
        int((pixels(image) == 0).all(-1).sum() + (pixels(image) == 255).all(-1).sum())
        for image in (drawn, free)
    ]
    assert ink[0] == ink[1] > 0


def test_tags_of_boxes_at_one_place_do_not_cover_each_other() -> None:
    box: list[float] = [100, 100, 300, 250]
    both: list[SceneObject] = [{"label": "b", "box_xyxy": box}, {"label": "cat", "box_xyxy": box}]
    drawn = [draw_objects(grey(), [one]) for one in both]
    first, second = (changed(image)[:100].sum() for image in drawn)
    assert changed(draw_objects(grey(), both))[:100].sum() == first + second


def test_a_label_longer_than_the_picture_is_cut() -> None:
    drawn = draw_objects(grey(), [{"label": "very " * 100 + "long", "box_xyxy": [100, 100, 300, 250]}])
    assert drawn.size == (400, 300)
    assert changed(drawn)[:100].any()


@pytest.mark.parametrize(
    "box", [[50, 50, 50, 50], [50, 50, 50, 90], [400, 300, 400, 300], [90, 90, 50, 50]]
)
def test_boxes_without_area_or_turned_round_are_still_seen(box: list[float]) -> None:
    drawn = draw_objects(grey(), [{"label": "cat", "box_xyxy": box}], truth=[{"box_xyxy": [0, 0, 0, 0]}])
    x, y = min(box[0], box[2], 399), min(box[1], box[3], 299)
    assert tuple(pixels(drawn)[int(y), int(x)]) == label_color("cat")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({"label": "cat"}, "`box_xyxy` of object `cat` to be four finite numbers.* but got None"),
        ({"box_xyxy": [1, 2, 3]}, "four finite numbers"),
        ({"box_xyxy": [1, 2, 3, float("nan")]}, "four finite numbers"),
        ({"box_xyxy": [1, 2, 3, "x"]}, "four finite numbers"),
        (
            {"label": "cat", "mask_rle": mask_of((0, 0, 5, 5), (30, 40))},
            r"size \[300, 400\].*got \(30, 40\)",
        ),
        ({"mask_rle": {"size": [300, 400], "counts": "Po"}}, "ends within a number"),
        ({"mask_rle": {"size": [300, 400], "counts": [300 * 400, 7]}}, "COCO's run lengths"),
        ({"mask_rle": {"size": [300, 400], "counts": [-1]}}, "COCO's run lengths"),
        ({"mask_rle": {"size": [300, 400], "counts": ""}}, "COCO's run lengths"),
        ({"mask_rle": {"counts": ""}}, "COCO's run lengths"),
        ({"mask_rle": "abc"}, "COCO's run lengths"),
    ],
)
def test_what_cannot_be_drawn_is_named(one: dict[str, Any], message: str) -> None:
    row: Any = {
        "id": "r7",
        "prediction_objects": [{"box_xyxy": [1, 2, 30, 40], **one} if "mask_rle" in one else one],
    }
    with pytest.raises(UserError, match=message):
        draw_objects(grey(), row["prediction_objects"])
    with pytest.raises(UserError, match="Row `r7`: Expected"):
        draw_prediction(grey(), row)


def test_uncompressed_runs_are_read_too() -> None:
    one: SceneObject = {
        "label": "cat",
        "box_xyxy": [0, 0, 9, 9],
        "mask_rle": {"size": [300, 400], "counts": [60000, 60000]},
    }
    drawn = draw_objects(grey(), [one])
    assert changed(drawn)[:, 200:].all()
    assert not changed(drawn)[150:, :200].any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_every_mode_become_rgb(mode: str) -> None:
    drawn = draw_objects(grey().convert(mode), [{"label": "cat", "box_xyxy": [50, 50, 90, 90]}])
    assert drawn.mode == "RGB"
    assert tuple(pixels(drawn)[60, 50]) == label_color("cat")


def test_a_small_picture_is_enlarged_with_its_boxes_and_masks() -> None:
    one: SceneObject = {
        "label": "cat",
        "box_xyxy": [10, 20, 40, 50],
        "mask_rle": mask_of((20, 30, 25, 35), (56, 60)),
    }
    drawn = draw_prediction(
        grey(60, 56), {"prediction_objects": [one], "objects": [{"box_xyxy": [5, 5, 9, 9]}]}
    )
    assert drawn.size == (360, 336)
    array = pixels(drawn)
    assert tuple(array[250, 60]) == tuple(array[250, 239]) == label_color("cat")
    assert tuple(array[250, 59]) == tuple(array[250, 240]) == tuple(array[250, 150]) == GREY
    assert changed(drawn)[180:210, 120:150].all()
    assert not changed(drawn)[211:290, 65:235].any()
    assert array[30, 31:54].max() == 255  # the truth's dashes
    assert not changed(drawn)[60:90].any()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((320, 500), (320, 500)), ((319, 500), (638, 1000)), ((1, 1), (320, 320)), ((10, 2000), (20, 4000))],
)
def test_only_small_pictures_are_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert draw_prediction(grey(*size), {"prefix": ""}).size == expected


WIDE = grey(400, 320)


def test_prompt_and_answer_stand_below_the_picture() -> None:
    row: PredictionRow = {
        "prefix": "answer en what is it?",
        "prediction": "a cat",
        "objects": [{"box_xyxy": [9, 9, 50, 50]}],
    }
    drawn = draw_prediction(WIDE, row)
    plain = draw_objects(WIDE, [], truth=row["objects"])
    assert drawn.crop((0, 0, 400, 320)) == plain
    strip = pixels(drawn)[320:]
    assert len(strip) > 30
    dark, text = (strip.max(-1) < 60), (strip.max(-1) < 200)
    half = len(strip) // 2
    assert text[:half].any()
    assert not dark[:half].any()  # the prompt is grey
    assert dark[half:].any()
    assert draw_prediction(WIDE, {**row, "prediction": "a dog"}) != drawn


def strip_height(prediction: str) -> int:
    return draw_prediction(WIDE, {"prefix": "caption en", "prediction": prediction}).height - 320


def test_long_answers_are_wrapped_and_very_long_ones_cut() -> None:
    heights = [strip_height(text) for text in ("cat", "cat " * 40, "c" * 200, "a\nb\nc", "cat " * 5000)]
    assert heights[0] < heights[1] < heights[4]
    assert heights[0] < heights[2] < heights[4]
    assert heights[0] < heights[3] < heights[4]
    assert strip_height("cat " * 5000) == strip_height("c" * 20000) == strip_height("a\n" * 99)
    wide = draw_prediction(WIDE, {"prediction": "w" * 400})
    assert (pixels(wide)[320:, -4:] == 255).all()


@given(st.text(st.characters(), max_size=80), st.text(st.characters(), max_size=20))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_drawing(text: str, label: str) -> None:
    row: PredictionRow = {
        "prefix": text,
        "prediction": text + "\ud83d",
        "prediction_objects": [{"label": label, "box_xyxy": [5, 5, 60, 60]}],
    }
    drawn = draw_prediction(grey(320, 320), row)
    assert drawn.width == 320
    assert changed(drawn)[:320].any()


def test_true_labels_are_black_on_white_below_the_box() -> None:
    box = [100.0, 80.0, 300.0, 200.0]
    plain = pixels(draw_objects(grey(), [], truth=[{"box_xyxy": box}]))
    array = pixels(draw_objects(grey(), [], truth=[{"label": "cat", "box_xyxy": box}]))
    rows = np.argwhere((array != plain).any(-1))[:, 0]
    assert rows.min() >= 200
    tag = array[200 : rows.max() + 1, 100:120]
    assert (tag.max(), tag.min()) == (255, 0)


def test_a_true_mask_is_outlined_and_not_filled() -> None:
    truth: list[SceneObject] = [{"box_xyxy": [0, 0, 1, 1], "mask_rle": mask_of((100, 80, 300, 200))}]
    array = pixels(draw_objects(grey(), [], truth=truth))
    assert tuple(array[140, 200]) == GREY
    assert tuple(array[80, 200]) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1600, 1200), (640, 480), (40, 30)])
def test_a_copy_of_another_size_has_its_objects_where_the_image_has_them(size: tuple[int, int]) -> None:
    width, height = size
    row: PredictionRow = {
        "prediction_objects": [{"box_xyxy": [width / 4, height / 4, width / 2, height / 2]}]
    }
    drawn = draw_row(grey(*size), row, smallest=300, largest=400)
    assert max(drawn.size) <= 400
    painted = np.argwhere(changed(drawn))
    found = np.array([painted.min(0), painted.max(0) + 1]) / np.array(drawn.size)[::-1]
    assert np.allclose(found, [[0.25, 0.25], [0.5, 0.5]], atol=0.01)
