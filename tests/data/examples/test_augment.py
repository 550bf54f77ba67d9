from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.codecs.coco_mask import encode_rle
from finetune.codecs.masks import crop_mask
from finetune.codecs.rle import decode_rle
from finetune.data.examples.augment import Augmentation
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.options import AugmentationConfig
from finetune.data.objects import build_object, object_features
from finetune.errors import UserError
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.text import TextTask
from tests.conftest import noise_image

Row = dict[str, Any]


def build_augmentation(**options: Any) -> Augmentation:
    return Augmentation(AugmentationConfig(**options))


SURE_FLIP = build_augmentation(flip=1.0)
STRENGTHS: dict[str, Any] = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5}
CHANNELS = {"red": 0, "green": 1}


def make_object(label: str, box: tuple[int, int, int, int], size: tuple[int, int], **more: Any) -> Row:
    """An object that fills its box; size is width and height."""
    mask = np.zeros(size[::-1], dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    area = float(mask.sum())
    return dict(
        build_object(label, box, size[::-1], "test", segmentation=encode_rle(mask), area=area, **more)
    )


def make_row(size: tuple[int, int], *objects: Row, **columns: Any) -> Row:
    row = {"id": "one", "group": "left", "width": size[0], "height": size[1], "objects": list(objects)}
    return {**row, **columns}


def paint(size: tuple[int, int], objects: list[Row]) -> Image.Image:
    """Red and green rectangles on blue."""
    image = Image.new("RGB", size, "blue")
    for one in objects:
        left, top, right, bottom = map(int, one["box_xyxy"])
        image.paste((255, 0, 0) if one["label"] == "red" else (0, 255, 0), (left, top, right, bottom))
    return image


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Image.Image, Row]:
    """A red rectangle in the left half, a green one in the right."""
    half, height = draw(st.integers(20, 60)), draw(st.integers(20, 90))
    size = (2 * half, height)
    objects = []
    for label, start in (("red", 0), ("green", half)):
        left, top = draw(st.integers(0, half - 12)), draw(st.integers(0, height - 12))
        right, bottom = draw(st.integers(left + 12, half)), draw(st.integers(top + 12, height))
        objects.append(make_object(label, (start + left, top, start + right, bottom), size))
    return paint(size, objects), make_row(size, *objects)


def scales(low: float, high: float) -> st.SearchStrategy[float]:
    return st.just(1.0) | st.floats(low, high)


augmentations = st.builds(
    build_augmentation,
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    crop=scales(0.1, 1.0),
    min_visible=st.floats(0.0, 1.0),
    resize=st.tuples(scales(0.5, 1.0), scales(1.0, 1.5)).map(list),
    brightness=st.sampled_from([0.0, 0.5]),
    contrast=st.sampled_from([0.0, 0.5]),
    saturation=st.sampled_from([0.0, 0.5]),
)
seeds = st.integers(0, 2**32)


@given(pictures(), augmentations, seeds)
@settings(max_examples=400, deadline=None)
def test_a_rectangle_still_lies_under_its_box_and_its_mask(
    picture: tuple[Image.Image, Row], augmentation: Augmentation, seed: int
) -> None:
    image, row = augmentation(*picture, Random(seed))
    width, height = image.size
    assert (row["width"], row["height"]) == (width, height)
    assert row["objects"]
    pixels = np.asarray(image).astype(int)
    for one in row["objects"]:
        left, top, right, bottom = one["box_xyxy"]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        own = pixels[..., CHANNELS[one["label"]]]
        painted = (own > pixels[..., 1 - CHANNELS[one["label"]]]) & (own > pixels[..., 2])
        mask = decode_rle(one["mask_rle"], (height, width))
        rows, columns = np.mgrid[:height, :width] + 0.5
        # How far each pixel's centre lies inside the box; scaling blurs the edge by three pixels.
        depth = np.minimum.reduce([columns - left, right - columns, rows - top, bottom - rows])
        for found in (painted, mask):
            assert found[depth > 3].all()
            assert not found[depth < -3].any()
        assert crop_mask(mask, np.array(one["box_xyxy"])).any()
        assert one["area"] == pytest.approx((right - left) * (bottom - top), rel=0.01)


@given(pictures(), augmentations, seeds)
@settings(max_examples=50, deadline=None)
def test_the_same_draws_make_the_same_picture(
    picture: tuple[Image.Image, Row], augmentation: Augmentation, seed: int
) -> None:
    image, row = augmentation(*picture, Random(seed))
    again, row_again = augmentation(*picture, Random(seed))
    assert image == again
    assert row == row_again


@given(pictures(), seeds)
@settings(max_examples=50, deadline=None)
def test_two_flips_are_none_and_one_is_a_mirror(picture: tuple[Image.Image, Row], seed: int) -> None:
    flipped, row = SURE_FLIP(*picture, Random(seed))
    assert np.array_equal(np.asarray(flipped), np.asarray(picture[0])[:, ::-1])
    assert row["objects"] != picture[1]["objects"] or flipped == picture[0]
    image, row = SURE_FLIP(flipped, row, Random(seed))
    assert image == picture[0]
    assert row == picture[1]


@given(st.integers(3, 400), st.integers(3, 400), st.floats(0.05, 1.0, exclude_max=True), seeds)
@settings(max_examples=200, deadline=None)
def test_a_crop_keeps_its_share_and_nearly_its_ratio(
    width: int, height: int, crop: float, seed: int
) -> None:
    image, _ = build_augmentation(crop=crop)(Image.new("RGB", (width, height)), {"id": "one"}, Random(seed))
    across, down = image.size
    assert crop * width * height <= across * down <= width * height
    # Sides are rounded up to whole pixels.
    assert across / width <= 4 / 3 * down / height + 1 / width
    assert down / height <= 4 / 3 * across / width + 1 / height


def test_below_one_the_picture_lies_on_grey_and_above_it_a_part_fills_the_picture() -> None:
    size = (40, 40)
    one = make_object("red", (0, 0, 40, 40), size)
    image, row = build_augmentation(resize=(0.5, 0.5))(paint(size, [one]), make_row(size, one), Random(2))
    (left, top, right, bottom) = map(int, row["objects"][0]["box_xyxy"])
    assert (right - left, bottom - top, left > 0) == (20, 20, True)
    assert image.size == size
    red = (np.asarray(image) == (255, 0, 0)).all(-1)
    assert red[top:bottom, left:right].all()
    assert (np.asarray(image)[~red] == 128).all()
    assert red.sum() == 400
    augmentation = build_augmentation(resize=(0.5, 0.5), **STRENGTHS)
    image, _ = augmentation(paint(size, [one]), make_row(size, one), Random(2))
    assert (np.asarray(image) == 128).all(-1).sum() == 1200  # the grey does not take part

    marked = Image.new("RGB", size, "blue")
    marked.paste((255, 0, 0), (20, 0, 40, 40))
    parts = [
        build_augmentation(resize=(4, 4))(marked, make_row(size), Random(seed))[0] for seed in range(20)
    ]
    assert {part.size for part in parts} == {size}
    assert len({part.getpixel((20, 20)) for part in parts}) > 1


def test_without_options_picture_and_row_are_the_same_objects() -> None:
    image, row = noise_image(0), make_row((20, 14))
    changed, row_out = build_augmentation()(image, row, Random(0))
    assert changed is image
    assert row_out is row


@pytest.mark.parametrize(
    "augmentation",
    [
        SURE_FLIP,
        build_augmentation(crop=0.2),
        build_augmentation(resize=(0.5, 2)),
        build_augmentation(**STRENGTHS),
    ],
)
def test_the_given_picture_and_row_stay_as_they_were(augmentation: Augmentation) -> None:
    image, row = noise_image(0, 40, 30), make_row((40, 30), make_object("red", (2, 3, 30, 25), (40, 30)))
    before = (image.copy(), make_row((40, 30), make_object("red", (2, 3, 30, 25), (40, 30))))
    changed, _ = augmentation(image, row, Random(1))
    assert changed != image
    assert (image, row) == before


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_colour_option_changes_colours_alone(name: str) -> None:
    image = noise_image(0)
    changed, row = build_augmentation(**{name: STRENGTHS[name]})(
        image, {"id": "one", "text": "<loc0001>"}, Random(3)
    )
    assert changed != image
    assert changed.size == image.size
    assert row == {"id": "one", "text": "<loc0001>"}


@pytest.mark.parametrize(
    ("columns", "flipped"),
    [
        pytest.param({"question": "What is left of the cup?"}, False, id="a question"),
        pytest.param({"answers": ["a dog", "the Rightmost one"]}, False, id="one of several answers"),
        pytest.param({"caption": "on the right-hand side"}, False, id="hyphen"),
        pytest.param({"caption": "bright leftovers"}, True, id="parts of words"),
        pytest.param({"caption": None}, True, id="no text"),
        pytest.param({"objects": [make_object("left shoe", (1, 1, 9, 9), (20, 14))]}, False, id="a label"),
        pytest.param({"id": "left", "image": "right.png"}, True, id="names of files"),
        pytest.param({"caption": "en la izquierda"}, True, id="another language"),
    ],
)
def test_a_row_that_names_sides_is_not_flipped(columns: Row, flipped: bool) -> None:
    image = noise_image(0)
    changed, _ = SURE_FLIP(image, make_row(image.size, **columns), Random(0))
    assert (changed != image) == flipped


@pytest.mark.parametrize(
    ("words", "text", "flipped"),
    [
        (["links"], "ganz links", False),
        (["links"], "on the left", True),
        (["左"], "猫在左边", False),
        (["a.c"], "abc", True),
        ([], "on the left", True),
    ],
)
def test_the_words_may_be_ones_own(words: list[str], text: str, flipped: bool) -> None:
    image = noise_image(0)
    augmentation = build_augmentation(flip=1.0, flip_words=words)
    changed, _ = augmentation(image, {"id": "one", "caption": text}, Random(0))
    assert (changed != image) == flipped


def test_an_object_of_which_too_little_is_seen_is_left_out() -> None:
    size = (100, 100)
    objects = [make_object("red", (0, 0, 100, 100), size), make_object("green", (0, 0, 8, 8), size)]
    augmentation = build_augmentation(crop=0.3, min_visible=0.3)
    kept = 0
    for seed in range(60):
        image, row = augmentation(paint(size, objects), make_row(size, *objects), Random(seed))
        seen = (np.asarray(image) == (0, 255, 0)).all(-1).sum()
        found = [one for one in row["objects"] if one["label"] == "green"]
        assert bool(found) == (seen >= 0.3 * 64)
        kept += bool(found)
    assert 0 < kept < 60


def corner_objects(size: tuple[int, int]) -> list[Row]:
    return [make_object("red", (0, 0, 4, 4), size), make_object("red", (96, 96, 100, 100), size)]


def test_where_every_crop_would_lose_all_objects_there_is_none() -> None:
    size = (100, 100)
    lost = 0
    for seed in range(200):
        row = make_row(size, corner_objects(size)[0])
        image, row_out = build_augmentation(crop=0.05, min_visible=1.0)(
            Image.new("RGB", size), row, Random(seed)
        )
        assert row_out["objects"]
        lost += image.size == size
        assert (image.size == size) == (row_out is row)
    assert lost > 0


@pytest.mark.parametrize(
    ("second", "needed"),
    [
        pytest.param({"iscrowd": 1}, True, id="the other is a crowd"),
        pytest.param({"label": "green"}, True, id="the other is of a class that is not asked for"),
        pytest.param({}, False, id="the other will do"),
    ],
)
def test_a_crop_keeps_something_that_is_asked_for(second: Row, needed: bool) -> None:
    size = (100, 100)
    objects = corner_objects(size)
    row = make_row(size, {**objects[0], "area": 1.0}, {**objects[1], **second}, label="red")
    augmentation = build_augmentation(crop=0.3, min_visible=1.0)
    found = [augmentation(Image.new("RGB", size), row, Random(seed))[1]["objects"] for seed in range(60)]
    assert any(len(kept) == 1 for kept in found)
    assert all(any(one["area"] == 1 for one in kept) for kept in found) == needed


def test_a_picture_in_which_nothing_is_asked_for_is_cropped_all_the_same() -> None:
    row = make_row((100, 100), label="red")
    crops = [
        build_augmentation(crop=0.3)(Image.new("RGB", (100, 100)), row, Random(seed))[0]
        for seed in range(9)
    ]
    assert all(crop.size != (100, 100) for crop in crops)


def test_a_mask_without_a_pixel_in_sight_drops_its_object() -> None:
    size = (40, 40)
    mask = np.zeros((40, 40), dtype=bool)
    mask[:, 0] = True  # of a box that spans the picture
    thin = {**make_object("red", (0, 0, 40, 40), size), "mask_rle": encode_rle(mask)}
    full = make_object("green", (0, 0, 40, 40), size)
    lost = 0
    for seed in range(30):
        picture = paint(size, [full])
        _, row = build_augmentation(crop=0.5, min_visible=0.0)(
            picture, make_row(size, thin, full), Random(seed)
        )
        for one in row["objects"]:
            assert decode_rle(one["mask_rle"], (row["height"], row["width"])).any()
        lost += len(row["objects"]) == 1
    assert 0 < lost < 30


def test_boxes_without_masks_and_areas_stay_without() -> None:
    one = dict(build_object("red", (5, 5, 35, 25), (30, 40), "test"))
    _, row = build_augmentation(crop=0.5)(Image.new("RGB", (40, 30)), make_row((40, 30), one), Random(0))
    assert row["objects"][0]["mask_rle"] is None
    assert row["objects"][0]["area"] is None
    assert row["objects"][0]["box_xyxy"] != one["box_xyxy"]


def test_boxes_that_are_text_are_refused_where_they_would_move() -> None:
    row = {"id": "r7", "suffixes": ["<loc0001><loc0002><loc0003><loc0004> cat"]}
    with pytest.raises(UserError, match=r"Row `r7` has boxes in its text"):
        build_augmentation(crop=0.5)(noise_image(0), row, Random(0))
    build_augmentation(crop=0.5)(
        noise_image(0), {"id": "r8", "suffixes": ["where is <location>?"]}, Random(0)
    )


def test_a_mask_of_another_size_names_row_and_object() -> None:
    row = make_row((20, 14), make_object("red", (1, 1, 5, 5), (21, 14)))
    with pytest.raises(
        UserError, match=r"Row `one`: object `red`: Expected run lengths of size \(14, 20\)"
    ):
        SURE_FLIP(noise_image(0), row, Random(0))


@pytest.fixture
def pair(tmp_path: Path) -> Dataset:
    """Two pictures of one example; the second is the first at twice the size."""
    image = noise_image(1, 30, 20)
    image.save(tmp_path / "0.png")
    image.resize((60, 40), Image.Resampling.NEAREST).save(tmp_path / "1.png")
    paths = [str(tmp_path / f"{index}.png") for index in range(2)]
    row = {"id": "pair", "group": None, "images": paths, "prefix": "same?", "suffixes": ["yes"]}
    return Dataset.from_list([row])


STRONG = build_augmentation(flip=0.5, crop=0.4, resize=(0.7, 1.3), **STRENGTHS)


def test_several_pictures_of_an_example_change_alike_and_differently_in_each_epoch(pair: Dataset) -> None:
    task = TextTask("{prefix}", "suffixes")
    dataset = ExampleDataset(pair, task, "train", seed=0, augment=STRONG)
    sizes = set()
    for epoch in range(10):
        small, large = dataset[epoch, 0].images
        assert np.abs(np.subtract(large.size, np.multiply(small.size, 2))).max() <= 2
        difference = np.asarray(large.resize(small.size), int) - np.asarray(small, int)
        assert np.abs(difference).mean() < np.abs(np.asarray(small, int) - 128).mean()
        assert dataset[epoch, 0].images == (small, large)
        sizes.add(small.size)
    assert len(sizes) > 5


def test_without_a_seed_and_in_a_part_of_the_split_the_rule_is_the_same(pair: Dataset) -> None:
    task = TextTask("{prefix}", "suffixes")
    dataset = ExampleDataset(pair, task, "train", seed=0, augment=STRONG)
    assert dataset.select([0])[1, 0].images == dataset[1, 0].images
    evaluated = ExampleDataset(pair, task, "validation", augment=STRONG)[1, 0].images
    assert [image.size for image in evaluated] == [(30, 20), (60, 40)]


def test_the_target_is_that_of_the_changed_picture(tmp_path: Path) -> None:
    size = (40, 30)
    one = make_object("red", (0, 0, 10, 30), size)
    paint(size, [one]).save(tmp_path / "0.png")
    row = make_row(size, one, image=str(tmp_path / "0.png"))
    rows = Dataset.from_list([row], features=object_features())
    dataset = ExampleDataset(
        rows, ObjectsOptions("detect red", labels=["red"]).build(), "train", 0, SURE_FLIP
    )
    example = dataset[0, 0]
    assert example.suffixes == ("<loc0000><loc0767><loc1023><loc1023> red",)
    assert example.target["objects"][0]["box_xyxy"] == [30, 0, 40, 30]
