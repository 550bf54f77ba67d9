from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from finetune.codecs.coco_mask import encode_polygons, encode_rle
from finetune.codecs.rle import decode_rle

SIZE = (6, 8)


def draw_mask(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).random(size) > 0.6


def test_polygon_fills_its_pixels() -> None:
    mask = decode_rle(encode_polygons([[2, 1, 6, 1, 6, 4, 2, 4]], SIZE), SIZE)
    expected = np.zeros(SIZE, dtype=bool)
    expected[1:4, 2:6] = True
    assert mask.dtype == bool
    assert np.array_equal(mask, expected)


def test_polygons_are_united_and_cut_at_the_picture() -> None:
    mask = decode_rle(encode_polygons([[0, 0, 2, 0, 2, 2, 0, 2], [6, 4, 20, 4, 20, 20, 6, 20]], SIZE), SIZE)
    expected = np.zeros(SIZE, dtype=bool)
    expected[0:2, 0:2] = True
    expected[4:, 6:] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        pytest.param([], "Expected `polygons` to have at least one polygon, but got none.", id="none"),
        pytest.param(
            [[0, 0, 5, 0, 5, 5], [0, 0, 5, 5]],
            "Expected polygon 1 to be three or more points, x and y of each, but got 4 numbers.",
            id="two points",
        ),
        pytest.param(
            [[0, 0, 5, 0, 5, 5, 1]],
            "Expected polygon 0 to be three or more points, x and y of each, but got 7 numbers.",
            id="half a point",
        ),
        pytest.param(
            [[0, 0, 5, 0, 5, float("nan")]],
            "Expected polygon 0 to be finite, but got [0, 0, 5, 0, 5, nan].",
            id="nan",
        ),
    ],
)
def test_polygons_that_are_none_are_named(polygons: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=r"^Expected") as error:
        encode_polygons(polygons, SIZE)
    assert str(error.value) == message


@given(st.integers(0, 1000), st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(max_examples=100, deadline=None)
def test_run_lengths_come_back(seed: int, size: tuple[int, int]) -> None:
    mask = draw_mask(seed, size)
    rle = encode_rle(mask)
    assert rle["size"] == list(size)
    assert np.array_equal(decode_rle(rle, size), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
def test_long_runs_are_read_as_pycocotools_reads_them() -> None:
    mask = np.zeros((700, 900), dtype=bool)
    mask[5:650, 3:800] = True
    mask[100:102] = False
    compressed = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert np.array_equal(decode_rle(compressed, mask.shape), mask)  # counts in bytes
    assert np.array_equal(coco.decode({**compressed, "counts": encode_rle(mask)["counts"]}), mask)


def test_plain_run_lengths_go_down_the_columns() -> None:
    mask = decode_rle({"size": [3, 2], "counts": [1, 3, 2]}, (3, 2))
    assert mask.tolist() == [[False, True], [True, False], [True, False]]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        pytest.param(
            {"size": [8, 6], "counts": [48]},
            "Expected run lengths of size (6, 8), but got (8, 6).",
            id="another size",
        ),
        pytest.param(
            {"size": [6, 8], "counts": [40, 7]},
            "Expected run lengths that sum to 48 pixels, but got 2 that sum to 47.",
            id="too short",
        ),
        pytest.param(
            {"size": [6, 8], "counts": [40, -2, 10]},
            "Expected run lengths that sum to 48 pixels, but got 3 that sum to 48.",
            id="negative",
        ),
        pytest.param(
            {"size": [6, 8], "counts": ""},
            "Expected run lengths that sum to 48 pixels, but got 0 that sum to 0.",
            id="empty",
        ),
        pytest.param(
            {"size": [6, 8], "counts": "P"},
            "Expected compressed run lengths, but the string ends within a number.",
            id="cut off",
        ),
        pytest.param(
            {"size": [6, 8], "counts": "1 2"},
            "Expected compressed run lengths, but got the character ' '.",
            id="not compressed",
        ),
        pytest.param(
            {"size": [6, 8], "counts": "o" * 1_000_000},
            "Expected compressed run lengths, but a number in the string does not end.",
            id="endless number",
        ),
        pytest.param(
            {"size": [10**6, 10**6], "counts": [10**12]},
            "Expected `size` to be at most 268,435,456 pixels, but got [1000000, 1000000].",
            id="huge",
        ),
        pytest.param(
            {"size": [-6, -8], "counts": [48]},
            "Expected `size` to be height and width in whole pixels, but got [-6, -8].",
            id="negative size",
        ),
        pytest.param(
            {"size": [6.0, 8], "counts": [48]},
            "Expected `size` to be height and width in whole pixels, but got [6.0, 8].",
            id="float size",
        ),
        pytest.param(
            {"size": [True, 8], "counts": [8]},
            "Expected `size` to be height and width in whole pixels, but got [True, 8].",
            id="bool size",
        ),
        pytest.param(
            {"size": 48, "counts": [48]},
            "Expected `size` to be height and width in whole pixels, but got 48.",
            id="one size",
        ),
        pytest.param(
            {"size": [6, 8], "counts": [48.0]},
            "Expected `counts` to be a string or whole numbers, but got [48.0].",
            id="float runs",
        ),
        pytest.param(
            {"size": [6, 8], "counts": None},
            "Expected `counts` to be a string or whole numbers, but got nothing.",
            id="no counts",
        ),
        pytest.param(
            {"size": [6, 8], "counts": "\ud800"},
            "Expected compressed run lengths, but got the character 'í'.",
            id="surrogate",
        ),
        pytest.param(
            [[0, 0, 4, 0, 4, 4]],
            "Expected run lengths to have `size`, height and width, and `counts`.",
            id="polygons",
        ),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(rle: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^Expected") as error:
        decode_rle(rle, SIZE)
    assert str(error.value) == message
