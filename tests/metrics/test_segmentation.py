from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from finetune.errors import UserError
from finetune.metrics.segmentation import Segmentation, SegmentationReading, compute_mask_scores


def build_object(rows: slice, columns: slice, size: tuple[int, int] = (10, 10)) -> dict[str, Any]:
    pixels = np.zeros(size, dtype=np.uint8, order="F")
    pixels[rows, columns] = 1
    encoded = coco_mask.encode(pixels)
    return {"label": "cat", "mask_rle": {"size": encoded["size"], "counts": encoded["counts"].decode()}}


ALL = slice(None)
TRUTH = build_object(ALL, ALL)


def build_row(*found: dict[str, Any], truths: tuple[dict[str, Any], ...] = (TRUTH,)) -> dict[str, Any]:
    return {"id": "s1", "objects": list(truths), "prediction_objects": list(found)}


def test_thresholds_count_and_large_objects_weigh_more_in_the_cumulative_iou() -> None:
    small = build_object(slice(0, 1), slice(0, 1))
    rows = [build_row(build_object(slice(0, count), ALL)) for count in (5, 6, 7, 8, 9)]
    rows.append(build_row(small, truths=(small,)))
    assert Segmentation().compute(rows) == {
        "mean_iou": pytest.approx(100 * (0.5 + 0.6 + 0.7 + 0.8 + 0.9 + 1) / 6),
        "cumulative_iou": pytest.approx(100 * 351 / 501),
        "precision_50": pytest.approx(100),
        "precision_60": pytest.approx(500 / 6),
        "precision_70": pytest.approx(400 / 6),
        "precision_80": pytest.approx(300 / 6),
        "precision_90": pytest.approx(200 / 6),
    }


@pytest.mark.parametrize("found", [[], [{"label": "cat"}]], ids=["nothing", "no mask"])
def test_an_answer_without_a_mask_is_an_empty_one(found: list[dict[str, Any]]) -> None:
    fields = Segmentation().compute([build_row(*found), build_row(TRUTH)])
    assert fields["mean_iou"] == fields["cumulative_iou"] == 50
    assert Segmentation().score(build_row(*found)) == 0


def test_several_masks_are_united_on_either_side() -> None:
    top, bottom = build_object(slice(0, 4), ALL), build_object(slice(2, 10), ALL)
    assert Segmentation().score(build_row(TRUTH, truths=(top, bottom))) == 100
    assert Segmentation().score(build_row(top, bottom)) == 100


def test_two_empty_masks_have_an_iou_of_zero() -> None:
    empty = build_object(slice(0, 0), ALL)
    assert Segmentation().score(build_row(empty, truths=(empty,))) == 0
    assert set(compute_mask_scores([(0, 0)]).values()) == {0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (build_row(truths=()), "0 of 0 have one"),
        (build_row(truths=(TRUTH, {"label": "cat"})), "1 of 2 have one"),
        ({"id": "s1", "objects": [TRUTH]}, "expected `prediction_objects`.*got nothing"),
        (build_row(build_object(ALL, ALL, (10, 9))), r"its masks differ in size.*\(10, 9\), \(10, 10\)"),
        ({**build_row(TRUTH), "width": 11}, "has width 10, but the row 11"),
    ],
)
def test_a_row_without_masks_is_refused_by_name(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"Row `s1`: .*{message}"):
        Segmentation().score(row)


TEXT = "<loc0000><loc0000><loc1023><loc1023>" + "<seg000>" * 16


@pytest.mark.parametrize(
    ("prediction", "found", "lenient", "official"),
    [
        pytest.param(TEXT, [TRUTH], 100, 100, id="well-formed"),
        pytest.param(TEXT + TEXT, [build_object(slice(0, 5), ALL), TRUTH], 100, 50, id="a-second-object"),
        pytest.param("<loc1023><loc0000><loc0000>" + TEXT[27:], [TRUTH], 100, 0, id="exchanged-corners"),
        pytest.param(" " + TEXT, [TRUTH], 100, 0, id="a-space-before"),
        pytest.param("", [], 0, 0, id="nothing"),
        pytest.param(None, [build_object(slice(0, 5), ALL), TRUTH], 100, 50, id="objects-without-text"),
        pytest.param(None, [{**TRUTH, "box_xyxy": [9, 0, 1, 10]}], 100, 0, id="an-inverted-box"),
        pytest.param(None, [{**TRUTH, "box_xyxy": [0, 0, 10, 10]}], 100, 100, id="a-box"),
    ],
)
def test_the_official_reading_counts_the_first_object_of_a_valid_answer(
    prediction: str | None, found: list[dict[str, Any]], lenient: float, official: float
) -> None:
    row = build_row(*found) | ({} if prediction is None else {"prediction": prediction})
    assert Segmentation().score(row) == lenient
    assert Segmentation(reading=SegmentationReading.official).score(row) == official
    assert Segmentation(reading=SegmentationReading.official).compute([row])["mean_iou"] == official


def test_a_mask_that_was_not_read_is_not_taken_for_a_wrong_one() -> None:
    row = build_row({"label": "cat"}) | {"prediction": TEXT + "<seg001>"}
    assert Segmentation().score(row) == 0
    with pytest.raises(UserError, match=r"Row `s1`: .*has a mask that .* lacks.*metric.mask_vae="):
        Segmentation(reading=SegmentationReading.official).score(row)


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(UserError, match=r"metric.reading=offical is not known. Did you mean `official`"):
        Segmentation(reading="offical")  # type: ignore[arg-type]
