import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from finetune.errors import UserError
from finetune.metrics.detection import FIELDS, Detection, DetectionOptions, Region
from finetune.metrics.metric import compute_by_group

BOX = [10.0, 10.0, 60.0, 60.0]
ELSEWHERE = [100.0, 100.0, 150.0, 150.0]


def build_object(box: Sequence[float] = BOX, label: str = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "box_xyxy": list(box), **more}


def build_row(truths: list[dict[str, Any]], found: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": "1", "objects": truths, "prediction_objects": found, **more}


def build_mask(rows: slice, columns: slice) -> dict[str, Any]:
    pixels = np.zeros((200, 200), dtype=np.uint8, order="F")
    pixels[rows, columns] = 1
    encoded = coco_mask.encode(pixels)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def average_precision(rows: list[dict[str, Any]], **options: Any) -> float:
    return Detection(DetectionOptions(**options)).compute(rows)["ap"]


def test_a_perfect_prediction_scores_one_and_sizes_that_do_not_occur_minus_one() -> None:
    assert Detection().compute([build_row([build_object()], [build_object(score=0.5)])]) == {
        "ap": pytest.approx(1),
        "ap50": pytest.approx(1),
        "ap75": pytest.approx(1),
        "ap_small": -1,
        "ap_medium": pytest.approx(1),
        "ap_large": -1,
        "ar_1": 1,
        "ar_10": 1,
        "ar_100": 1,
    }


def test_a_single_ground_truth_can_be_found_although_it_is_the_first() -> None:
    rows = [build_row([build_object()], [build_object(score=0.9), build_object(score=0.8)])]
    # A second box on the same object is false, which costs precision only after full recall.
    assert average_precision(rows) == pytest.approx(1)
    rows[0]["prediction_objects"][1]["box_xyxy"] = ELSEWHERE
    rows[0]["prediction_objects"][1]["score"] = 1.0
    assert average_precision(rows) == pytest.approx(0.5)


def test_without_ground_truth_there_is_no_score() -> None:
    rows = [build_row([], [build_object(score=1.0)])]
    assert Detection().compute(rows) == dict.fromkeys(FIELDS, -1)


def test_without_predictions_the_score_is_zero() -> None:
    assert average_precision([build_row([build_object()], [])]) == 0


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "area": st.sampled_from([0.0, 1023.9, 1024.0, 9216.0, 9216.1, 2e10]),
                "iscrowd": st.integers(0, 1),
            }
        ),
        max_size=3,
    )
)
@settings(deadline=None, max_examples=50)
def test_without_predictions_the_score_is_the_evaluators(kinds: list[dict[str, Any]]) -> None:
    truths = [build_object(**kind) for kind in kinds]
    # A label that the ground truth lacks is left out by the evaluator, which then has nothing to match.
    unknown = [build_object(label="dog", score=0.5)]
    assert Detection().compute([build_row(truths, [])]) == Detection().compute([build_row(truths, unknown)])


def test_labels_that_no_ground_truth_has_cost_nothing_and_labels_weigh_the_same() -> None:
    truths = [build_object(), build_object(ELSEWHERE), build_object(label="dog")]
    found = [
        build_object(score=0.1),
        build_object(ELSEWHERE, score=0.1),
        build_object(label="cow", score=1.0),
    ]
    assert average_precision([build_row(truths, found)]) == pytest.approx(0.5)


def test_a_crowd_is_neither_missed_nor_do_boxes_within_it_cost_anything() -> None:
    within = [build_object([x, 100, x + 20, 120], score=0.9) for x in (100, 130, 160)]
    region = build_object([90, 90, 300, 300])
    rows = [build_row([build_object(), {**region, "iscrowd": 1}], [*within, build_object(score=0.5)])]
    assert average_precision(rows) == pytest.approx(1)
    rows[0]["objects"][1]["iscrowd"] = 0
    assert average_precision(rows) == pytest.approx(51 / 101 / 4)


def test_the_area_given_decides_the_size_and_else_that_of_the_region() -> None:
    found = [build_object(score=1.0)]
    given = Detection().compute([build_row([build_object(area=900.0)], found)])
    assert [given["ap_small"], given["ap_medium"]] == pytest.approx([1, -1])
    box = Detection().compute([build_row([build_object()], found)])
    assert [box["ap_small"], box["ap_medium"]] == pytest.approx([-1, 1])


def test_confidence_is_the_objects_score_and_else_the_rows_confidence() -> None:
    true, false = build_object(), build_object(ELSEWHERE)
    first = build_row([build_object()], [false], id="1", confidence=0.2)
    second = build_row([build_object()], [true], id="2", confidence=0.9)
    assert average_precision([first, second]) == pytest.approx(51 / 101)
    first["prediction_objects"] = [{**false, "score": 0.95}]
    assert average_precision([first, second]) == pytest.approx(51 / 101 / 2)


def test_under_constant_the_earlier_picture_comes_first_whatever_the_order_of_rows_and_scores() -> None:
    wrong = build_row([build_object()], [build_object(ELSEWHERE, score=0.1)], id="2")
    right = build_row([build_object()], [build_object(score=0.2)], id="10")
    for rows in ([wrong, right], [right, wrong]):
        assert average_precision(rows, score="constant") == pytest.approx(51 / 101 / 2)
        # As text, `10` comes before `2`.
        names = [{**row, "id": f"image {row['id']}"} for row in rows]
        assert average_precision(names, score="constant") == pytest.approx(51 / 101)


def test_under_rank_the_first_object_of_every_picture_comes_before_the_second_of_any() -> None:
    first = build_row([build_object()], [build_object(), build_object(ELSEWHERE)], id="1")
    second = build_row([build_object()], [build_object(), build_object(ELSEWHERE)], id="2")
    assert average_precision([first, second], score="rank") == pytest.approx(1)
    assert average_precision([first, second], score="constant") == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_with_its_corners_the_wrong_way_round_matches_nothing() -> None:
    found = [build_object([60, 60, 10, 10], score=1.0)]
    assert average_precision([build_row([build_object([60, 60, 110, 110])], found)]) == 0
    assert average_precision([build_row([build_object([10, 10, 60, 60])], found)]) == 0


def test_masks_are_compared_only_when_asked() -> None:
    left, right = build_mask(slice(0, 100), slice(0, 50)), build_mask(slice(0, 100), slice(50, 100))
    rows = [build_row([build_object(mask_rle=left)], [build_object(mask_rle=right, score=1.0)])]
    assert average_precision(rows) == pytest.approx(1)
    assert average_precision(rows, region="mask") == 0
    rows[0]["prediction_objects"][0]["mask_rle"] = left
    fields = Detection(DetectionOptions(region=Region.mask)).compute(rows)
    assert [fields["ap"], fields["ap_medium"]] == pytest.approx([1, 1])


def test_a_predicted_object_without_a_mask_is_a_false_positive() -> None:
    mask = build_mask(slice(0, 100), slice(0, 50))
    found = [build_object(score=0.9), build_object(score=0.5, mask_rle=mask)]
    rows = [build_row([build_object(mask_rle=mask)], found)]
    assert average_precision(rows, region="mask") == pytest.approx(0.5)
    nothing = build_row([], [build_object(score=1.0)], id="2")
    assert average_precision([*rows, nothing], region="mask") == pytest.approx(1 / 3)


def test_groups_are_scored_by_themselves_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        build_row([build_object()], [build_object(score=1.0)], id="1", group="day"),
        build_row([build_object()], [], id="2", group="night"),
    ]
    groups = compute_by_group(Detection(), rows)["by_group"]
    assert [groups["day"]["ap"], groups["night"]["ap"]] == pytest.approx([1, 0])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (build_row([build_object()], [build_object()]), {}, "needs a `score`.*metric.score=rank"),
        (build_row([build_object()], [build_object(score="x")]), {}, "`score` to be a number, but got 'x'"),
        (build_row([build_object(area="x")], []), {}, "`area` to be a number, but got 'x'"),
        (build_row([{"box_xyxy": BOX}], []), {}, "to have a `label`"),
        (build_row([build_object([0, 0, 1])], []), {}, "expected `box_xyxy` to be four numbers"),
        ({"id": "1", "objects": []}, {}, "expected `prediction_objects`.*Decode them"),
        ({"id": "1", "prediction_objects": []}, {}, "expected `objects`"),
        (build_row([build_object()], []), {"region": "mask"}, "region=mask needs a `mask_rle`"),
    ],
)
def test_a_row_that_lacks_something_is_refused_by_name(
    row: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    metric = Detection(DetectionOptions(**options))
    for refuse in (metric.score, lambda one: metric.compute([one])):
        with pytest.raises(UserError, match=f"Row `1`: .*{message}"):
            refuse(row)


@pytest.mark.parametrize("options", [{"score": "logit"}, {"region": "polygon"}, {"divisor": 1000}])
def test_an_unknown_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"is not known\..*It is one of"):
        Detection(DetectionOptions(**options))


@pytest.fixture
def load_coco(parity_data: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Read COCO's ground truth and a result file as prediction rows."""
    folder = parity_data / "coco_detection"

    def load(name: str) -> list[dict[str, Any]]:
        stored = COCO(folder / "instances_val2014_100.json")
        labels = {one["id"]: one["name"] for one in stored.dataset["categories"]}
        rows = {
            image["id"]: build_row(
                [], [], id=str(image["id"]), height=image["height"], width=image["width"]
            )
            for image in stored.dataset["images"]
        }
        for one in stored.dataset["annotations"]:
            mask = stored.annToRLE(one)
            truth = build_object(
                as_corners(one["bbox"]),
                labels[one["category_id"]],
                iscrowd=one["iscrowd"],
                area=one["area"],
                mask_rle={"size": mask["size"], "counts": mask["counts"].decode()},
            )
            rows[one["image_id"]]["objects"].append(truth)
        for one in json.loads((folder / name).read_text()):
            found = {"label": labels[one["category_id"]], "score": one["score"]}
            if "bbox" in one:
                found["box_xyxy"] = as_corners(one["bbox"])
            else:
                found["mask_rle"] = one["segmentation"]
            rows[one["image_id"]]["prediction_objects"].append(found)
        return list(rows.values())

    return load


def as_corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


@pytest.mark.parity
def test_coco_sample_boxes_score_as_published(load_coco: Callable[[str], list[dict[str, Any]]]) -> None:
    fields = Detection().compute(load_coco("instances_val2014_fakebbox100_results.json"))
    expected = {
        "ap": 0.5045807,
        "ap50": 0.6969727,
        "ap75": 0.5729817,
        "ar_1": 0.3868128,
        "ar_10": 0.5936796,
        "ar_100": 0.5953530,
    }
    assert {key: fields[key] for key in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parity
def test_coco_sample_masks_score_as_published(load_coco: Callable[[str], list[dict[str, Any]]]) -> None:
    fields = Detection(DetectionOptions(region=Region.mask)).compute(
        load_coco("instances_val2014_fakesegm100_results.json")
    )
    expected = {"ap": 0.3195453, "ap50": 0.5622884, "ap75": 0.2989265}
    assert {key: fields[key] for key in expected} == pytest.approx(expected, abs=1e-6)
