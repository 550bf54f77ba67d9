from typing import Any

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.metrics.referring import Referring, box_iou

TRUTH = [0, 0, 10, 10]


def build_row(*boxes: list[float]) -> dict[str, Any]:
    return {
        "id": "e1",
        "objects": [{"label": "left cat", "box_xyxy": TRUTH}],
        "prediction_objects": [{"label": "", "box_xyxy": box} for box in boxes],
    }


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        ([0, 0, 10, 10], 1),
        ([0, 0, 10, 5], 0.5),
        ([5, 5, 15, 15], 25 / 175),
        ([10, 0, 20, 10], 0),
        ([30, 30, 40, 40], 0),
        ([0, 5, 10, 5], 0),
        ([10, 10, 0, 0], 0),
        ([10, 0, 0, 10], 0),
    ],
)
def test_iou_is_of_areas_and_a_degenerate_box_has_none(box: list[float], iou: float) -> None:
    assert box_iou(TRUTH, box) == box_iou(box, TRUTH) == pytest.approx(iou)


def test_two_boxes_without_area_do_not_divide_by_zero() -> None:
    assert box_iou([3, 3, 3, 3], [3, 3, 3, 3]) == 0


def test_the_threshold_counts_and_what_float32_would_round_up_to_it_does_not() -> None:
    below = 5 - 1e-7
    assert np.float32(box_iou(TRUTH, [0, 0, 10, below])) == 0.5
    rows = [build_row([0, 0, 10, height]) for height in (5, below, 7.5, 10)]
    assert Referring().compute(rows) == {
        "accuracy_50": 75,
        "accuracy_75": 50,
        "mean_iou": pytest.approx(100 * (0.5 + 0.5 + 0.75 + 1) / 4),
        "unreadable": 0,
    }


def test_an_answer_without_a_box_is_wrong_and_counted() -> None:
    assert Referring().compute([build_row(), build_row([0, 0, 10, 10])]) == {
        "accuracy_50": 50,
        "accuracy_75": 50,
        "mean_iou": 50,
        "unreadable": 50,
    }


def test_only_the_first_box_counts() -> None:
    assert Referring().score(build_row([0, 0, 10, 5], [0, 0, 10, 10])) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": []}, "refers to one object, but `objects` has 0"),
        ({"objects": [{"box_xyxy": TRUTH}] * 2}, "refers to one object, but `objects` has 2"),
        ({"objects": None}, "expected `objects` to be a list of objects, but got nothing"),
        ({"prediction_objects": None}, "expected `prediction_objects`.*Decode them from `prediction`"),
        ({"objects": [{"box_xyxy": [0, 0, 1]}]}, r"expected `box_xyxy` to be four numbers.*\[0, 0, 1\]"),
        ({"prediction_objects": [{}]}, "expected `box_xyxy` to be four numbers.*nothing"),
        ({"prediction_objects": [{"box_xyxy": [0, 0, 1, float("nan")]}]}, "is not finite"),
    ],
)
def test_a_row_without_boxes_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"Row `e1`: .*{message}"):
        Referring().score({**build_row([0, 0, 1, 1]), **change})


def test_an_unknown_divisor_is_refused() -> None:
    with pytest.raises(UserError, match=r"metric.divisor=1000 is not known.*1023, 1024"):
        Referring(divisor=1000)
