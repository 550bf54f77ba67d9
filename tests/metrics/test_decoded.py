from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.metrics.decoded import decode_rows
from finetune.metrics.detection import Detection, DetectionOptions
from finetune.metrics.segmentation import Segmentation
from finetune.metrics.several import Several
from finetune.metrics.text import ExactMatch

BOX = "<loc0000><loc0000><loc0512><loc0512> cat"
ROW: dict[str, Any] = {"id": "1", "prediction": BOX, "width": 1024, "height": 1024}


def test_objects_are_read_with_the_metrics_divisor_where_a_row_brings_none() -> None:
    metric = Detection(DetectionOptions(divisor=1024))
    rows = decode_rows(metric, [{**ROW}, {**ROW, "prediction_objects": []}])
    assert rows[0]["prediction_objects"] == [{"label": "cat", "box_xyxy": [0.0, 0.0, 512.0, 512.0]}]
    assert rows[1]["prediction_objects"] == []


def test_rows_of_a_metric_of_texts_stay_as_they_are() -> None:
    rows = [{**ROW}]
    assert decode_rows(ExactMatch(), rows) is rows


def test_one_metric_of_objects_among_several_is_enough() -> None:
    rows = decode_rows(Several(ExactMatch(), {"boxes": Detection()}), [{**ROW}])
    assert rows[0]["prediction_objects"] == decode_rows(Detection(), [{**ROW}])[0]["prediction_objects"]


def test_weights_that_are_not_there_are_reported_before_any_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.npz"):
        decode_rows(Segmentation(mask_vae=str(tmp_path / "no.npz")), [{**ROW, "prediction_objects": []}])
