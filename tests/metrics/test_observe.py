import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from finetune.metrics.detection import Detection, DetectionOptions, Region
from finetune.metrics.doubts import Doubt, Level
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.observe import find_doubts
from finetune.metrics.referring import Referring
from finetune.metrics.segmentation import Segmentation
from finetune.metrics.text import ExactMatch
from finetune.metrics.yes_no import YesNo

BOXES = [[10.0, 20.0, 110.0, 90.0], [300.0, 200.0, 420.0, 260.0], [500.0, 30.0, 630.0, 400.0]]
SIZE = {"width": 640, "height": 480}
MASK = {"size": [480, 640], "counts": [1000, 3000, 303200]}


def build_rows(
    predicted: Sequence[Sequence[float]],
    true: Sequence[Sequence[float]] = BOXES,
    *,
    label: str = "cat",
    size: Mapping[str, int] = SIZE,
    **more: Any,
) -> list[dict[str, Any]]:
    """One image an object, each with one predicted box."""
    return [
        {
            "id": str(number),
            **size,
            "objects": [{"label": "cat", "box_xyxy": list(one), "area": 1.0}],
            "prediction_objects": [{"label": label, "box_xyxy": list(other), "score": 0.5, **more}],
        }
        for number, (one, other) in enumerate(zip(true, predicted, strict=True))
    ]


def doubts_of(metric: Metric, rows: list[dict[str, Any]]) -> list[Doubt]:
    return find_doubts(metric, rows, compute_by_group(metric, rows))


def share(box: Sequence[float]) -> list[float]:
    return [box[0] / 640, box[1] / 480, box[2] / 640, box[3] / 480]


def write_as_xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.mark.parametrize("metric", [Detection(), Referring()])
def test_right_boxes_raise_no_doubt(metric: Metric) -> None:
    assert doubts_of(metric, build_rows(BOXES)) == []


@pytest.mark.parametrize("metric", [Detection(), Referring()])
def test_boxes_that_are_only_bad_get_no_more_than_a_word(metric: Metric) -> None:
    (doubt,) = doubts_of(metric, build_rows([[0, 300, 10, 310], [5, 5, 300, 30], [0, 0, 50, 470]]))
    assert doubt.level == Level.warning
    assert "is 0: no predicted object lies on one of `objects`" in doubt.text


@pytest.mark.parametrize("metric", [Detection(), Referring()])
@pytest.mark.parametrize(
    ("rows", "level", "message"),
    [
        pytest.param(
            build_rows([share(box) for box in BOXES]),
            Level.mistake,
            "3 of 3 boxes in `prediction_objects` lie within 0 and 1, as shares of the image do; the first "
            "in row `0`: [0.015625, 0.0416666",
            id="shares",
        ),
        pytest.param(
            build_rows(BOXES, [share(box) for box in BOXES]),
            Level.mistake,
            "boxes in `objects` lie within 0 and 1",
            id="true shares",
        ),
        pytest.param(
            build_rows([share(box) for box in BOXES], [share(box) for box in BOXES]),
            Level.warning,
            "boxes in `objects` lie within 0 and 1",
            id="shares on both sides",
        ),
        pytest.param(
            build_rows([share(BOXES[0]), *BOXES[1:]]),
            Level.warning,
            "1 of 3 boxes in `prediction_objects` lie within 0 and 1",
            id="one share",
        ),
        pytest.param(
            build_rows([share(box) for box in BOXES], size={}),
            Level.mistake,
            "lie within 0 and 1",
            id="shares of an unknown size",
        ),
        pytest.param(
            build_rows([[box[2], box[3], box[0], box[1]] for box in BOXES]),
            Level.mistake,
            "3 of 3 boxes in `prediction_objects` have a maximum below its minimum",
            id="inverted",
        ),
        pytest.param(
            build_rows([[110.0, 90, 10, 20], *BOXES[1:]]),
            Level.warning,
            "1 of 3 boxes in `prediction_objects` have a maximum below its minimum",
            id="one inverted",
        ),
        pytest.param(
            build_rows(BOXES, [[110.0, 90, 10, 20], *BOXES[1:]]),
            Level.mistake,
            "1 of 3 boxes in `objects` have a maximum below its minimum",
            id="one true box inverted",
        ),
        pytest.param(
            build_rows(BOXES, [[110.0, 90, 110, 120], *BOXES[1:]]),
            Level.mistake,
            "1 of 3 boxes in `objects` have no area",
            id="one true box empty",
        ),
        pytest.param(
            build_rows([*BOXES[:2], [500.0, 30.0, 800.0, 400.0]]),
            Level.warning,
            "1 of 3 boxes in `prediction_objects` leave the image",
            id="one leaves the image",
        ),
        pytest.param(
            build_rows([[box[0] + 640, box[1], box[2] + 640, box[3]] for box in BOXES]),
            Level.mistake,
            "3 of 3 boxes in `prediction_objects` lie outside the image",
            id="outside",
        ),
    ],
)
def test_boxes_in_another_unit_or_layout_are_reported(
    metric: Metric, rows: list[dict[str, Any]], level: Level, message: str
) -> None:
    doubt = next(doubt for doubt in doubts_of(metric, rows) if message in doubt.text)
    assert doubt.level == level


@pytest.mark.parametrize(
    ("write", "name"),
    [
        pytest.param(write_as_xywh, "x, y, width, height", id="xywh"),
        pytest.param(lambda box: [box[1], box[0], box[3], box[2]], "y_min, x_min, y_max, x_max", id="yxyx"),
        pytest.param(
            lambda box: [side * 1000 for side in share(box)], "thousandths of width", id="thousandths"
        ),
        pytest.param(
            lambda box: [round(share(box)[place] * 1023) for place in (1, 0, 3, 2)],
            "y before x",
            id="location tokens as numbers",
        ),
        pytest.param(lambda box: [side * 100 for side in share(box)], "percent", id="percent"),
    ],
)
@pytest.mark.parametrize("key", ["prediction_objects", "objects"])
def test_the_layout_in_which_boxes_fit_is_named(
    write: Callable[[Sequence[float]], Sequence[float]], name: str, key: str
) -> None:
    boxes = [[400.0, 50.0, 460.0, 90.0], [300.0, 200.0, 380.0, 260.0], [500.0, 30.0, 560.0, 400.0]]
    other = [write(box) for box in boxes]
    rows = build_rows(other, boxes) if key == "prediction_objects" else build_rows(boxes, other)
    for row in rows:
        row["objects"][0].pop("area")
    found = [doubt.text for doubt in doubts_of(Referring(), rows) if doubt.level == Level.mistake]
    assert found
    # Exchanging x and y on either side is the same.
    sides = (f"`{key}`", "`prediction_objects`" if name.startswith("y_min") else f"`{key}`")
    assert any(
        any(side in text for side in sides) and (name in text or "width, height?" in text) for text in found
    )


def test_an_area_above_that_of_the_box_hints_at_width_and_height() -> None:
    rows = build_rows(BOXES)
    for row in rows:
        row["objects"][0]["area"] = 1e6
    (doubt,) = doubts_of(Detection(), rows)
    assert "3 objects have an `area` above that of their box" in doubt.text


def test_missing_areas_are_noted_where_they_change_a_field() -> None:
    rows = build_rows(BOXES)
    rows[1]["objects"][0].pop("area")
    (doubt,) = doubts_of(Detection(), rows)
    assert doubt.level == Level.note
    assert doubt.text.startswith("1 of 3 objects have no `area`: ap_small")
    assert doubts_of(Referring(), rows) == []


@pytest.mark.parametrize("label", ["Cat", " cat", "CAT "])
def test_labels_in_another_case_or_with_spaces_are_matched_up(label: str) -> None:
    doubt = doubts_of(Detection(), build_rows(BOXES, label=label))[0]
    assert doubt.level == Level.mistake
    assert "the labels of 3 of 3 predicted objects are not among those of the ground truth" in doubt.text
    assert f"differ in case or outer spaces only: `{label}` (did you mean `cat`?)" in doubt.text
    rows = build_rows(BOXES)
    rows[0]["prediction_objects"][0]["label"] = label
    (doubt,) = doubts_of(Detection(), rows)
    assert doubt.level == Level.warning
    assert doubts_of(Referring(), build_rows(BOXES, label=label)) == []


def test_labels_that_the_ground_truth_lacks_are_reported_if_no_other_counts() -> None:
    (doubt,) = doubts_of(Detection(), build_rows(BOXES, label="dog"))
    assert doubt.level == Level.warning
    assert doubt.text == "no label of the predictions occurs in the ground truth: `dog` instead of `cat`."
    rows = build_rows(BOXES)
    rows[0]["prediction_objects"][0]["label"] = "dog"
    assert doubts_of(Detection(), rows) == []


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [10, 20, 110, 90], "label": "cat"}]',
        '```json\n[{"box_2d": [10, 20, 110, 90], "label": "cat"}]\n```',
        "<ref>cat</ref><box>(10,20),(110,90)</box>",
        "cat<loc_10><loc_20><loc_110><loc_90>",
        "<|ref|>cat<|/ref|><|det|>[[10, 20, 110, 90]]<|/det|>",
        "[10, 20, 110, 90]",
    ],
)
def test_another_models_syntax_is_named(text: str) -> None:
    rows = [{**row, "prediction": text, "prediction_objects": []} for row in build_rows(BOXES)]
    for metric in (Detection(), Referring()):
        (doubt,) = doubts_of(metric, rows)
        assert doubt.level == Level.mistake
        assert "3 of 3 predictions are written in another model's syntax" in doubt.text
    rows[1] = build_rows(BOXES)[1]
    (doubt,) = doubts_of(Detection(), rows)
    assert doubt.level == Level.warning


def test_predictions_without_any_object_are_reported() -> None:
    rows = [{**row, "prediction": "a cat", "prediction_objects": []} for row in build_rows(BOXES)]
    (doubt,) = doubts_of(Detection(), rows)
    assert doubt.level == Level.warning
    assert (
        "no row of 3 has a predicted object; the first is row `0`: 'a cat'. Expected PaliGemma's"
        in doubt.text
    )
    for row in rows:
        row.pop("prediction")
    (doubt,) = doubts_of(Detection(), rows)
    assert doubt.text == "no row of 3 has a predicted object."


def test_a_ground_truth_without_objects_is_reported() -> None:
    rows = [{**row, "objects": []} for row in build_rows(BOXES)]
    (doubt,) = doubts_of(Detection(), rows)
    assert doubt.text.startswith("no row has an object in `objects`")


def test_answers_in_location_tokens_are_in_pixels_however_bad() -> None:
    rows = [{**row, "prediction": "<loc0000>" * 4} for row in build_rows([[0, 0, 0.6, 0.6]] * 3)]
    (doubt,) = doubts_of(Referring(), rows)
    assert "is 0" in doubt.text


@pytest.mark.parametrize("metric", [Detection(DetectionOptions(region=Region.mask)), Segmentation()])
def test_objects_without_masks_are_refused_where_masks_are_compared(metric: Metric) -> None:
    rows = build_rows(BOXES)
    for row in rows:
        row["objects"][0]["mask_rle"] = MASK
    (doubt,) = doubts_of(metric, rows)
    assert doubt.level == Level.mistake
    assert "none of 3 predicted objects has a `mask_rle`" in doubt.text
    for row in rows:
        row["prediction"] = "<loc0001><loc0001><loc0100><loc0100>"
    (doubt,) = doubts_of(metric, rows)
    assert doubt.level == Level.warning
    rows[0]["prediction_objects"][0]["mask_rle"] = MASK
    assert doubts_of(metric, rows) == []


def text_row(prediction: str, reference: str = "Net", **more: Any) -> dict[str, Any]:
    return {"prediction": prediction, "references": [reference], **more}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([text_row(""), text_row("  ")], "all 2 predictions are empty"),
        (
            [text_row("net", id="7"), text_row("x")],
            "exact_match is 0, but 1 of the first 2 .* such as row `7`",
        ),
        (
            [text_row("rope")],
            "exact_match is 0: no prediction is right. The first is a row without an `id`",
        ),
        ([text_row("<loc0001>x", "<loc0000><loc0000><loc0512><loc0512> cat")], "metric=detection compares"),
        ([text_row("Net", id="7"), text_row("Net", id="7")], "1 rows repeat an id .* the first is Row `7`"),
        ([text_row("Net", id=7), text_row("Net", id=7)], "1 rows repeat an id"),
    ],
)
def test_texts_that_cannot_be_meant_are_reported(rows: list[dict[str, Any]], message: str) -> None:
    (doubt,) = doubts_of(ExactMatch(), rows)
    assert doubt.level == Level.warning
    assert re.search(message, doubt.text)


@pytest.mark.parametrize(
    "rows",
    [
        [text_row("Net"), text_row("")],
        [text_row("Net"), text_row("net")],
        [text_row("Net", id="1"), text_row("Net", id="2")],
        [text_row("Net", id=None), text_row("Net", id=None)],
    ],
)
def test_texts_that_may_be_meant_raise_no_doubt(rows: list[dict[str, Any]]) -> None:
    assert doubts_of(ExactMatch(), rows) == []


def test_a_score_of_zero_that_is_good_raises_no_doubt() -> None:
    class Misses:
        higher_is_better: Mapping[str, bool] = {"misses": False}

        def score(self, row: Mapping[str, Any]) -> None: ...

        def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
            return {"misses": 0.0}

    assert doubts_of(Misses(), [text_row("Net")]) == []
    assert doubts_of(YesNo(), [text_row("no", "no")]) == []
