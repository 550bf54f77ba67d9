"""Calibration, against scikit-learn's bins and plain loops."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from finetune.metrics.calibration import Bin, calibrate


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    confidences = np.round(random.beta(4, 1.5, count), 2)  # many are equal, and some at the edge of a bin
    return confidences, (random.random(count) < confidences**1.5).astype(float)


@pytest.mark.parametrize("count", [1, 7, 500])
@pytest.mark.parametrize("bins", [5, 10, 15])
def test_bins_are_those_of_scikit_learn(count: int, bins: int) -> None:
    confidences, credits = draw(count, count)
    found = calibrate(confidences.tolist(), credits.tolist(), bins).bins
    accuracy, confidence = calibration_curve(credits, confidences, n_bins=bins)
    assert [one.accuracy for one in found] == pytest.approx(list(accuracy))
    assert [one.confidence for one in found] == pytest.approx(list(confidence))
    assert sum(one.count for one in found) == count


def test_the_error_is_guos() -> None:
    confidences, credits = draw(500, 1)
    expected = 0.0
    for place in range(10):
        inside = [
            (confidence, credit)
            for confidence, credit in zip(confidences, credits, strict=True)
            if place / 10 < confidence <= (place + 1) / 10 or (place == 0 and confidence == 0)
        ]
        if inside:
            mean = [sum(values) / len(inside) for values in zip(*inside, strict=True)]
            expected += len(inside) / 500 * abs(mean[0] - mean[1])
    assert calibrate(confidences.tolist(), credits.tolist()).error == pytest.approx(expected, abs=1e-12)


def test_accuracy_at_each_coverage_is_that_of_the_answers_as_confident() -> None:
    confidences, credits = draw(200, 2)
    found = calibrate(confidences.tolist(), credits.tolist())
    levels = sorted(set(confidences.tolist()), reverse=True)
    kept = [credits[confidences >= level] for level in levels]
    assert found.coverage == pytest.approx([len(one) / 200 for one in kept])
    assert found.accuracy == pytest.approx([one.mean() for one in kept])
    assert found.coverage[-1] == 1


def test_partial_credit_counts_as_such() -> None:
    found = calibrate([0.5, 1.0], [0.3, 1.0])
    assert found.bins == [Bin(1, 0.5, 0.3), Bin(1, 1.0, 1.0)]
    assert found.error == pytest.approx(0.1)
    assert found.accuracy == pytest.approx([1.0, 0.65])
