import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.codecs.boxes import encode_boxes
from finetune.codecs.coco_mask import encode_rle
from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.masks import (
    crop_mask,
    decode_masks,
    encode_mask_codes,
    has_pixels,
    paste_mask,
    resize_crop,
)

SIZE = (120, 200)


class PerfectVae(MaskVae):
    """Loses nothing: code 0 of mask n is n, and a map is the crop it was encoded from."""

    def encode(self, masks: torch.Tensor) -> torch.Tensor:
        self.crops = masks
        return torch.arange(len(masks))[:, None].repeat(1, 16)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return 2 * self.crops[codes[:, 0]] - 1


class FullVae(MaskVae):
    """Every mask fills its box."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(codes), 64, 64)


def draw_ellipse(box: tuple[float, float, float, float], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pixels whose centres lie in the ellipse that fills the box."""
    x_min, y_min, x_max, y_max = box
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    across = (2 * x - x_min - x_max) / (x_max - x_min)
    down = (2 * y - y_min - y_max) / (y_max - y_min)
    ellipse: np.ndarray = across**2 + down**2 <= 1
    return ellipse


def scale_by_definition(crop: np.ndarray, side: int) -> np.ndarray:
    """Bilinear with antialiasing: a triangle as wide as an output pixel, at least as an input pixel."""

    def weigh(length: int) -> np.ndarray:
        scale = length / side
        centres = (np.arange(side) + 0.5) * scale
        distance = np.abs(centres[:, None] - (np.arange(length) + 0.5)) / max(scale, 1)
        triangle = np.maximum(1 - distance, 0)
        normalised: np.ndarray = triangle / triangle.sum(1, keepdims=True)
        return normalised

    scaled: np.ndarray = weigh(crop.shape[0]) @ crop.astype(np.float64) @ weigh(crop.shape[1]).T
    return scaled


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((200, 333), id="shrunk"),
        pytest.param((7, 5), id="enlarged"),
        pytest.param((17, 300), id="enlarged and shrunk"),
        pytest.param((64, 64), id="as it is"),
        pytest.param((1, 1), id="one pixel"),
    ],
)
def test_a_crop_is_scaled_with_antialiasing(shape: tuple[int, int]) -> None:
    crop = np.random.default_rng(0).random(shape) < 0.7
    scaled = resize_crop(crop)
    assert scaled.dtype == torch.float32
    np.testing.assert_allclose(scaled.numpy(), scale_by_definition(crop, 64), atol=1e-6)


def test_the_crop_is_the_annotated_box_with_edges_rounded() -> None:
    vae = PerfectVae()
    mask = np.random.default_rng(1).random(SIZE) > 0.5
    # Halves go to the even pixel: 10.5 to 10 and 71.5 to 72. The bins of these edges are coarser.
    encode_mask_codes(mask[None], np.array([[10.5, 19.6, 71.5, 90.4]]), vae)
    np.testing.assert_allclose(vae.crops[0], scale_by_definition(mask[20:90, 10:72], 64), atol=1e-6)


def test_codes_are_those_of_the_vae(vae: MaskVae) -> None:
    boxes = np.array([[10, 20, 110, 90], [50.2, 3, 199, 119.6]])
    masks = np.stack([draw_ellipse((10, 20, 110, 90)), draw_ellipse((50, 3, 199, 120))])
    crops = [masks[0][20:90, 10:110], masks[1][3:120, 50:199]]
    expected = vae.encode(torch.stack([resize_crop(crop) for crop in crops])).numpy()
    codes = encode_mask_codes(masks, boxes, vae)
    assert codes.shape == (2, 16)
    assert not np.array_equal(codes[0], codes[1])
    assert np.array_equal(codes, expected)


def encode_masks(
    masks: np.ndarray | list[np.ndarray], boxes: np.ndarray, vae: MaskVae, labels: list[str] | None = None
) -> str:
    """The answer that a task writes."""
    codes = encode_mask_codes(masks, boxes, vae).tolist()
    return encode_boxes(boxes, labels or [""] * len(masks), SIZE, codes)


def test_a_referring_answer_is_twenty_tokens_and_nothing_else(vae: MaskVae) -> None:
    box = (10.0, 20.0, 110.0, 90.0)
    text = encode_masks(draw_ellipse(box)[None], np.array([box]), vae)
    assert re.fullmatch(r"(<loc\d{4}>){4}(<seg\d{3}>){16}", text)
    assert text.startswith("<loc0170><loc0051><loc0767><loc0563>")


def test_labelled_masks_are_parted_by_a_semicolon_between_spaces(vae: MaskVae) -> None:
    boxes = np.array([[10, 20, 110, 90], [0, 0, 200, 120]])
    masks = [draw_ellipse((10, 20, 110, 90)), np.ones(SIZE, dtype=np.uint8) * 255]
    text = encode_masks(masks, boxes, vae, ["a cat", "wall"])
    one = r"(?:<loc\d{4}>){4}(?:<seg\d{3}>){16}"
    assert re.fullmatch(rf"{one} a cat ; {one} wall", text)
    unlabelled = encode_masks(masks, boxes, vae)
    assert unlabelled == text.replace(" a cat", "").replace(" wall", "")


@pytest.mark.parametrize(
    ("masks", "boxes", "message"),
    [
        pytest.param(
            np.ones((2, *SIZE)),
            [[0, 0, 9, 9]],
            "Expected `boxes_xyxy` to be (2, 4), one row per mask, but got (1, 4).",
            id="too few boxes",
        ),
        pytest.param(
            [np.ones((5, 6)), np.ones((6, 5))],
            [[0, 0, 5, 5]] * 2,
            "Expected `masks` to be of one (height, width), but got [(5, 6), (6, 5)].",
            id="two sizes",
        ),
        pytest.param(
            np.ones((1, *SIZE, 3)),
            [[0, 0, 9, 9]],
            "Expected `masks` to be of one (height, width), but got [(120, 200, 3)].",
            id="with channels",
        ),
        pytest.param(
            np.stack([np.ones(SIZE), draw_ellipse((0, 0, 50, 50))]),
            [[0, 0, 9, 9], [60, 60, 90, 90]],
            "Expected mask 1 to have pixels in its box [60.0, 60.0, 90.0, 90.0], but got none.",
            id="mask elsewhere",
        ),
        pytest.param(
            np.ones((1, *SIZE)),
            [[7.6, 0, 8.4, 9]],
            "Expected mask 0 to have pixels in its box [7.6, 0.0, 8.4, 9.0], but got none.",
            id="box of no pixel",
        ),
        pytest.param(
            np.ones((1, *SIZE)),
            [[9, 0, 7, 9]],
            "Expected row 0 of `boxes_xyxy` to be x_min, y_min, x_max, y_max (is it inverted, or x, y, "
            "width, height?), but got [9.0, 0.0, 7.0, 9.0].",
            id="inverted box",
        ),
    ],
)
def test_masks_that_cannot_be_written_are_named(
    vae: MaskVae, masks: np.ndarray, boxes: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^Expected") as error:
        encode_mask_codes(masks, np.array(boxes), vae)
    assert str(error.value) == message


def test_a_map_is_pasted_at_truncated_pixels() -> None:
    mask = paste_mask(np.ones((64, 64), dtype=np.float32), (10.9, 20.2, 30.99, 40.999), SIZE)
    expected = np.zeros(SIZE, dtype=bool)
    expected[20:40, 10:30] = True
    assert mask.dtype == bool
    assert np.array_equal(mask, expected)


def test_a_map_is_scaled_as_pillow_does_and_nought_is_outside() -> None:
    map_ = np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32)
    map_[:20] = 0
    mask = paste_mask(map_, (0, 0, 150, 90), SIZE)
    expected = np.asarray(Image.fromarray(map_).resize((150, 90), Image.Resampling.BILINEAR)) > 0
    assert not mask[:20].any()
    assert np.array_equal(mask[:90, :150], expected)
    assert not mask[90:].any()
    assert not mask[:, 150:].any()


def test_a_box_of_no_pixel_gives_an_empty_mask() -> None:
    mask = paste_mask(np.ones((64, 64), dtype=np.float32), (10.2, 20, 10.8, 40), SIZE)
    assert mask.shape == SIZE
    assert not mask.any()


def test_decode_gives_each_object_its_mask_and_none_without_codes(vae: MaskVae) -> None:
    codes = np.random.default_rng(3).integers(0, 128, (2, 16))
    first, second = ("".join(f"<seg{code:03d}>" for code in row) for row in codes)
    text = (
        f"<loc0100><loc0100><loc0900><loc0900>{first} cat ; <loc0000><loc0000><loc0500><loc0500> dog ; "
        f"<loc0000><loc0512><loc0512><loc1023>{second}<loc0001>"
    )
    reading, masks = decode_masks(text, SIZE, vae)
    assert [found.label for found in reading.objects] == ["cat", "dog", ""]
    assert [leftover.text for leftover in reading.leftovers] == ["<loc0001>"]
    maps = vae.decode(torch.from_numpy(codes)).numpy()
    assert masks[1] is None
    for row, map_ in ((0, maps[0]), (2, maps[1])):
        expected = paste_mask(map_, reading.objects[row].box_xyxy, SIZE)
        assert 0 < expected.sum() < expected.size
        assert np.array_equal(masks[row], expected)  # type: ignore[arg-type]


def test_decode_uses_the_divisor() -> None:
    text = "<loc0000><loc0000><loc1023><loc1023>" + "<seg000>" * 16
    reading, (mask,) = decode_masks(text, (1024, 1024), FullVae(), divisor=1024)
    assert reading.objects[0].box_xyxy == (0.0, 0.0, 1023.0, 1023.0)
    assert mask is not None
    assert mask.sum() == 1023 * 1023


edges = st.floats(0, 140)
lengths = st.floats(30, 60)


@given(st.lists(st.tuples(edges, st.floats(0, 60), lengths, lengths), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_vae_that_loses_nothing_gives_the_masks_back(
    rows: list[tuple[float, float, float, float]],
) -> None:
    boxes = np.array([(x, y, x + width, y + height) for x, y, width, height in rows])
    masks = np.stack([draw_ellipse(tuple(box)) for box in boxes.tolist()])
    vae = PerfectVae()
    text = encode_masks(masks, boxes, vae, ["thing"] * len(rows))
    reading, found = decode_masks(text, SIZE, vae)
    assert reading.leftovers == []
    assert len(found) == len(rows)
    for mask, expected in zip(found, masks, strict=True):
        assert mask is not None
        # Rounded when cut, truncated when pasted: one pixel of an object of 30 may be lost at an edge.
        assert (mask & expected).sum() / (mask | expected).sum() > 0.85


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_pixels_in_a_box_are_found_in_the_run_lengths_as_in_the_drawn_mask(data: st.DataObject) -> None:
    size = (data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7)))
    pixels = data.draw(st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]))
    mask = np.array(pixels).reshape(size)
    sides = [sorted(data.draw(st.tuples(st.floats(-1, 9), st.floats(-1, 9)))) for _ in "xy"]
    box = np.array([sides[0][0], sides[1][0], sides[0][1], sides[1][1]])
    assert has_pixels(encode_rle(mask), box, size) == crop_mask(mask, box).any()
