from typing import Any, ClassVar

import pytest

from finetune.errors import UserError
from finetune.metrics.anls import Anls
from finetune.metrics.choice import Choice
from finetune.metrics.counting import Counting
from finetune.metrics.detection import Detection, DetectionOptions
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.referring import Referring
from finetune.metrics.relaxed import RelaxedAccuracy
from finetune.metrics.segmentation import Segmentation, SegmentationReading
from finetune.metrics.several import Several, find_object_metric, metrics_of
from finetune.metrics.text import ExactMatch

ROWS: list[dict[str, Any]] = [
    {"id": "1", "prediction": "3", "references": ["3"], "group": "a"},
    {"id": "2", "prediction": "5", "references": ["4"], "group": "b"},
]


def test_the_main_metrics_fields_come_first_and_then_the_others() -> None:
    metric = Several(ExactMatch(), {"anls": Anls(), "counting": Counting()})
    fields = metric.compute(ROWS)
    assert fields == {**ExactMatch().compute(ROWS), **Anls().compute(ROWS), **Counting().compute(ROWS)}
    assert list(fields) == list(metric.higher_is_better)
    assert next(iter(fields)) == "exact_match"
    assert metric.higher_is_better["mae"] is False


def test_a_row_has_the_main_metrics_score() -> None:
    metric = Several(Anls(), {"exact": ExactMatch()})
    assert [metric.score(row) for row in ROWS] == [Anls().score(row) for row in ROWS]


def test_a_field_that_a_metric_before_it_has_gets_its_own_metrics_name() -> None:
    metric = Several(Counting(), {"strict": ExactMatch(), "again": Counting(), "third": ExactMatch()})
    assert list(metric.compute(ROWS)) == [
        "accuracy", "mae", "within_1", "exact_match", "again_accuracy", "again_mae", "again_within_1",
        "third_exact_match",
    ]  # fmt: skip
    assert metric.higher_is_better["again_mae"] is False


def test_fields_are_reported_by_group_too() -> None:
    groups = compute_by_group(Several(ExactMatch(), {"anls": Anls()}), ROWS)["by_group"]
    assert groups["b"] == {"exact_match": 0, "anls": 0, "n": 1}


def test_a_field_that_only_some_rows_give_is_left_out_where_it_is() -> None:
    rows = [{**row, "group": None} for row in ROWS]
    assert list(Several(ExactMatch(), {"chart": RelaxedAccuracy()}).compute(rows)) == [
        "exact_match", "relaxed_accuracy",
    ]  # fmt: skip


def test_a_row_that_lacks_what_any_of_them_needs_is_refused() -> None:
    with pytest.raises(UserError, match="expected the reference to name a choice"):
        Several(ExactMatch(), {"letters": Choice()}).score(ROWS[0])


def test_names_that_make_two_fields_the_same_are_refused() -> None:
    class Odd(ExactMatch):
        higher_is_better: ClassVar[dict[str, bool]] = {"x_exact_match": True, "exact_match": True}

    with pytest.raises(UserError, match="`x_exact_match` is a field of several metrics"):
        Several(Odd(), {"x": ExactMatch()})


def test_objects_are_read_as_the_first_metric_of_objects_reads_them() -> None:
    several: Metric = Several(ExactMatch(), {"boxes": Referring(), "ap": Detection()})
    assert find_object_metric(several) == Referring()
    assert find_object_metric(Detection()) == Detection()
    assert find_object_metric(ExactMatch()) is None
    assert [type(metric) for metric in metrics_of(several)] == [ExactMatch, Referring, Detection]


def test_objects_are_read_as_the_metric_of_masks_reads_them_and_in_one_way() -> None:
    masks = Segmentation(mask_vae="vae.npz")
    several = Several(DetectionOptions().build(), {"segmentation": masks})
    assert find_object_metric(several) is masks
    with pytest.raises(UserError, match="`divisor` differs"):
        Several(DetectionOptions().build(), {"referring": Referring(divisor=1024)})
    with pytest.raises(UserError, match="`reading` differs"):
        Several(Segmentation(), {"official": Segmentation(reading=SegmentationReading.official)})
