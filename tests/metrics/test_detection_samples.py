"""Samples of images are scored as COCO's evaluator scores each by itself."""

from typing import Any

import numpy as np
import pytest

from finetune.metrics.bootstrap import bootstrap
from finetune.metrics.detection import Detection, DetectionOptions, Region


def draw_rows(seed: int, images: int) -> list[dict[str, Any]]:
    """Images of any number of objects, found more or less well, in all three sizes; some are crowds."""
    random = np.random.default_rng(seed)

    def draw_object(x: float, y: float, side: float, label: str) -> dict[str, Any]:
        return {"label": label, "box_xyxy": [x, y, x + side, y + side]}

    rows = []
    for index in range(images):
        objects, found = [], []
        for _ in range(random.integers(0, 5)):
            x, y = random.uniform(0, 300, 2)
            side, label = random.choice([20.0, 60.0, 150.0]), str(random.choice(["cat", "dog", "cup"]))
            objects.append({**draw_object(x, y, side, label), "iscrowd": int(random.random() < 0.1)})
            for _ in range(random.integers(0, 3)):
                shift = random.uniform(-0.3, 0.3, 2) * side
                seen = str(random.choice([label, label, "dog", "bird"]))
                one = draw_object(x + shift[0], y + shift[1], side, seen)
                found.append({**one, "score": float(random.random())})
        rows.append({"id": str(index), "objects": objects, "prediction_objects": found})
    return rows


@pytest.mark.parametrize("images", [1, 2, 12])
@pytest.mark.parametrize("seed", range(4))
def test_a_sample_is_scored_as_its_rows_are(seed: int, images: int) -> None:
    rows = draw_rows(seed, images)
    metric = Detection()
    score = metric.prepare(rows)
    for sample in np.random.default_rng(seed).integers(0, images, (8, images)):
        expected = metric.compute([rows[index] for index in sample])
        assert score(sample) == pytest.approx(
            {field: value for field, value in expected.items() if value != -1}, abs=1e-12
        )


def test_without_predictions_the_samples_score_zero() -> None:
    rows = [{**row, "prediction_objects": []} for row in draw_rows(0, 10)]
    assert set(Detection().prepare(rows)(np.arange(10)).values()) == {0.0}


def test_nothing_to_find_has_no_field() -> None:
    rows = [{**row, "objects": []} for row in draw_rows(0, 3)]
    assert Detection().prepare(rows)(np.arange(3)) == {}


def test_average_precision_has_an_interval() -> None:
    intervals = bootstrap(Detection(), draw_rows(1, 40), resamples=200, seconds=60)
    whole = Detection().compute(draw_rows(1, 40))
    assert set(intervals) == set(whole)
    assert intervals["ap"].low < whole["ap"] < intervals["ap"].high


@pytest.mark.parametrize("region", list(Region))
def test_each_class_has_the_average_precision_of_its_own_objects(region: Region) -> None:
    rows = draw_rows(2, 20)
    for row in rows:
        for one in [*row["objects"], *row["prediction_objects"]]:
            x0, y0, x1, y1 = np.rint(one["box_xyxy"]).astype(int).clip(0, 600)
            mask = np.zeros((600, 600), dtype=bool)
            mask[y0:y1, x0:x1] = True
            runs = np.flatnonzero(np.diff(np.r_[False, mask.ravel("F"), False]))
            ends = np.diff(np.r_[0, runs, mask.size]) if len(runs) else [mask.size]
            one["mask_rle"] = {"size": [600, 600], "counts": [int(run) for run in ends]}
    metric = Detection(DetectionOptions(region=region))
    by_label = metric.compute_by_label(rows)
    assert list(by_label) == ["bird", "cat", "cup", "dog"]
    for label, scores in by_label.items():
        alone = [
            {**row, "objects": [one for one in row["objects"] if one["label"] == label]} for row in rows
        ]
        expected = metric.compute(alone)
        assert scores["ap"] == (None if label == "bird" else pytest.approx(expected["ap"]))
        assert scores["ap50"] == (None if label == "bird" else pytest.approx(expected["ap50"]))
        assert scores["objects"] == sum(not one["iscrowd"] for row in alone for one in row["objects"])
    predicted = sum(scores["predicted"] or 0 for scores in by_label.values())
    assert predicted == sum(len(row["prediction_objects"]) for row in rows)


def test_classes_of_nothing_are_none() -> None:
    rows: list[dict[str, Any]] = [{"id": "1", "objects": [], "prediction_objects": []}]
    assert Detection().compute_by_label(rows) == {}
