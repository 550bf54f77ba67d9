import numpy as np
import pytest
from pycocotools import mask as coco_mask

from finetune.errors import UserError
from finetune.metrics.mask import empty_mask, mask_overlap, read_mask


def test_a_mask_reads_the_same_from_compressed_and_plain_runs() -> None:
    pixels = np.random.default_rng(0).random((37, 53)) < 0.4
    pixels[5:30, 10:40] = True
    encoded = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pixels.ravel(order="F"), [2]])))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    for counts in (encoded["counts"], encoded["counts"].decode(), runs):
        mask = read_mask({}, {"mask_rle": {"size": [37, 53], "counts": counts}})
        assert mask == {"size": [37, 53], "counts": encoded["counts"]}


def test_an_object_may_have_no_mask() -> None:
    assert read_mask({}, {"box_xyxy": [0, 0, 1, 1]}) is None


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        pytest.param(
            {"size": [4, 5], "counts": [3, 4]}, "sum to 20 pixels, but got 2 that sum to 7", id="short"
        ),
        pytest.param({"size": [4, 5], "counts": [30, -10]}, "sum to 20", id="negative"),
        pytest.param({"size": [5, 4], "counts": [20]}, "has height 5, but the row 4", id="other size"),
        pytest.param({"size": [4, 5]}, "to have `size`", id="no counts"),
        pytest.param({"counts": "03"}, "to have `size`", id="no size"),
        pytest.param({"size": [4, 5], "counts": "\u00e9\u00e9"}, "the character", id="other letters"),
        pytest.param({"size": [4, 5], "counts": "d"}, "ends within a number", id="cut off"),
        pytest.param([[0, 0, 4, 0, 4, 4]], "to have `size`", id="polygons"),
    ],
)
def test_runs_that_do_not_fill_the_picture_are_refused_by_name(rle: object, message: str) -> None:
    with pytest.raises(UserError, match=rf"Row `m1`: .*`mask_rle`.*{message}"):
        read_mask({"id": "m1", "height": 4, "width": 5}, {"mask_rle": rle})


def test_a_mask_without_a_pixel_takes_no_memory_for_its_size() -> None:
    mask = empty_mask((16_000, 16_000))
    assert len(mask["counts"]) < 10
    assert mask_overlap(mask, mask) == (0, 0)


def test_overlap_counts_the_pixels_of_both_and_of_either() -> None:
    one, other = np.zeros((2, 6, 8), dtype=np.uint8)
    one[:, :4] = 1
    other[:3, 2:] = 1
    left, right = (coco_mask.encode(np.asfortranarray(pixels)) for pixels in (one, other))
    assert mask_overlap(left, right) == (6, 36)
    assert mask_overlap(left, empty_mask((6, 8))) == (0, 24)
