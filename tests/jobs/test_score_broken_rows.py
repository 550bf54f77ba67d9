"""Whatever stands in a row: every metric ends with numbers or one message that names the place."""

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.jobs.score import score_rows
from finetune.metrics.anls import Anls, AnlsConvention
from finetune.metrics.caption import Caption
from finetune.metrics.choice import Choice
from finetune.metrics.counting import Counting
from finetune.metrics.detection import Detection, DetectionOptions, DetectionScore, Region
from finetune.metrics.edit import EditRate
from finetune.metrics.grouped import GroupedAccuracy
from finetune.metrics.jsonl import JsonlRows
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.pair import PairAccuracy
from finetune.metrics.referring import Referring
from finetune.metrics.relaxed import RelaxedAccuracy
from finetune.metrics.segmentation import Segmentation
from finetune.metrics.text import AnyMatch, ExactMatch
from finetune.metrics.vqa import VqaAccuracy, VqaConvention
from finetune.metrics.yes_no import YesNo

REMOVED = object()
NESTED: Any = "x"
for _ in range(200):
    NESTED = [NESTED]

CHANGES: list[Any] = [
    REMOVED, None, True, 7, -1, 0.5, "x", "", [], {}, [1, 2, 3], {"x": 1}, 10**30, 10**400,
    float("nan"), float("inf"), "\ud800", NESTED,
]  # fmt: skip

TEXT = {"id": "1", "group": "a", "prediction": "A", "references": ["B"] * 10}
MASK = {"size": [40, 50], "counts": [100, 30, 1870]}
OBJECT = {"label": "cat", "box_xyxy": [10, 10, 30, 30], "area": 300.0, "iscrowd": 0, "mask_rle": MASK}
OBJECTS = {
    "id": "1",
    "group": "a",
    "width": 50,
    "height": 40,
    "confidence": 0.5,
    "objects": [OBJECT],
    "prediction_objects": [{**OBJECT, "score": 0.5}],
}
WRITTEN = {**OBJECTS, "prediction": "<loc0000><loc0000><loc0512><loc0512> cat"}
del WRITTEN["prediction_objects"]

METRICS = [
    pytest.param(ExactMatch(), TEXT, id="exact_match"),
    pytest.param(AnyMatch(), TEXT, id="any_match"),
    pytest.param(VqaAccuracy(), TEXT, id="vqa_accuracy"),
    pytest.param(VqaAccuracy(VqaConvention.n_of_3), TEXT, id="n_of_3"),
    pytest.param(Anls(), TEXT, id="anls"),
    pytest.param(Anls(AnlsConvention.paper), TEXT, id="anls paper"),
    pytest.param(RelaxedAccuracy(), {**TEXT, "prediction": "3", "references": ["3.1"]}, id="relaxed"),
    pytest.param(Caption(), TEXT, id="caption"),
    pytest.param(EditRate(), TEXT, id="edit"),
    pytest.param(Counting(), {**TEXT, "prediction": "3", "references": ["4"]}, id="counting"),
    pytest.param(Choice(), TEXT, id="choice"),
    pytest.param(YesNo(), {**TEXT, "prediction": "no", "references": ["yes"]}, id="yes_no"),
    pytest.param(PairAccuracy(), TEXT, id="pair_accuracy"),
    pytest.param(GroupedAccuracy(), TEXT, id="grouped_accuracy"),
    pytest.param(Detection(), OBJECTS, id="detection"),
    pytest.param(Detection(DetectionOptions(score=DetectionScore.rank)), WRITTEN, id="detection of text"),
    pytest.param(Detection(DetectionOptions(region=Region.mask)), OBJECTS, id="detection of masks"),
    pytest.param(Referring(), OBJECTS, id="referring"),
    pytest.param(Segmentation(), OBJECTS, id="segmentation"),
]


def change_each(value: Any) -> Iterator[Any]:
    """Yield the value with one of its members, at any depth, taken away or replaced."""
    members = value.items() if isinstance(value, dict) else list(enumerate(value))[:2]
    for key, member in members:
        for change in CHANGES:
            changed = deepcopy(value)
            if change is REMOVED:
                del changed[key]
            else:
                changed[key] = change
            yield changed
        if isinstance(member, dict | list):
            for inner in change_each(member):
                yield {**value, key: inner} if isinstance(value, dict) else [inner, *value[1:]]


@pytest.mark.parametrize(("metric", "row"), METRICS)
def test_a_broken_row_is_scored_or_named(metric: Metric, row: dict[str, Any], tmp_path: Path) -> None:
    messages = []
    for number, changed in enumerate(change_each(row)):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(f"{json.dumps({**row, 'id': 'whole'})}\n\n{json.dumps(changed)}\n")
        rows = JsonlRows(file)
        try:
            scores, doubts = score_rows(metric, rows)
        except UserError as error:
            messages.append(str(error).replace(str(file), "FILE"))
        else:
            scores.pop("by_group", None)
            assert scores.pop("n") == 2
            assert set(scores) <= set(metric.higher_is_better)
            assert all(math.isfinite(score) for score in scores.values())
            assert all(len(doubt.text) < 600 for doubt in doubts)
        finally:
            rows.close()
    assert len(messages) > 10
    assert all("FILE line " in message and len(message) < 600 for message in messages)


@pytest.mark.parametrize(("metric", "row"), METRICS)
def test_empty_answers_give_every_field_and_no_word(
    metric: Metric, row: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """As rows are scored before training."""
    rows = [{**row, "id": name, "prediction": "", "prediction_objects": []} for name in "12"]
    scores = compute_by_group(metric, rows)
    assert set(scores) == {*metric.higher_is_better, "n", "by_group"}
    assert capsys.readouterr() == ("", "")
