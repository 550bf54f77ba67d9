"""The bootstrap: scipy's intervals, units of several rows, and metrics that are no means."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import scipy.stats

from finetune.errors import UserError
from finetune.metrics.bootstrap import FEWEST, Interval, bootstrap, bootstrap_difference
from finetune.metrics.caption import Caption
from finetune.metrics.edit import EditRate
from finetune.metrics.grouped import GroupedAccuracy
from finetune.metrics.metric import Metric
from finetune.metrics.pair import PairAccuracy
from finetune.metrics.several import Several
from finetune.metrics.text import ExactMatch
from finetune.metrics.vqa import VqaAccuracy

WORDS = ["red", "blue", "a red cup", "two dogs", "a dog on a sofa"]


def build_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "id": str(index),
            "group": "ab"[index % 2],
            "prediction": str(random.choice(WORDS)),
            "references": [str(random.choice(WORDS)) for _ in range(10)],
        }
        for index in range(count)
    ]


def expect(metric: Metric, rows: Sequence[Mapping[str, object]], field: str, resamples: int) -> Any:
    """Return scipy's interval, over the same draws."""

    def statistic(indices: np.ndarray) -> float:
        return metric.compute([rows[int(index)] for index in indices])[field]

    result = scipy.stats.bootstrap(
        (np.arange(len(rows)),),
        statistic,
        n_resamples=resamples,
        batch=1,
        vectorized=False,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    whole = metric.compute(rows)[field]
    return pytest.approx((whole, result.low, result.high, resamples))


@pytest.mark.parametrize(
    ("metric", "fields"),
    [
        pytest.param(ExactMatch(), {"exact_match"}, id="a mean of rows"),
        pytest.param(VqaAccuracy(), {"vqa_accuracy"}, id="a mean of soft scores"),
        pytest.param(EditRate(), {"cer", "wer"}, id="a ratio of sums"),
        pytest.param(GroupedAccuracy(), {"overall", "average"}, id="a mean of groups"),
        pytest.param(Caption(), {"cider_d", "bleu_4", "rouge_l"}, id="a corpus"),
        pytest.param(Several(ExactMatch(), {"edit": EditRate()}), {"exact_match", "cer"}, id="two metrics"),
    ],
)
def test_intervals_are_those_of_scipy(metric: Metric, fields: set[str]) -> None:
    rows = build_rows(12)
    intervals = bootstrap(metric, rows, resamples=FEWEST, seconds=60)
    assert list(intervals) == list(metric.higher_is_better)
    for field in fields:
        assert astuple(intervals[field]) == expect(metric, rows, field, FEWEST)


def test_rows_of_one_image_are_drawn_together() -> None:
    rows = [{**row, "image": f"{index // 4}.jpg"} for index, row in enumerate(build_rows(40))]
    for index, row in enumerate(rows):  # all questions about an image are right, or none
        row["prediction"] = row["references"][0] if index % 8 < 4 else "wrong"
    scores = np.array([100.0 if index % 8 < 4 else 0.0 for index in range(0, 40, 4)])
    result = scipy.stats.bootstrap(
        (scores,), np.mean, n_resamples=500, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap(ExactMatch(), rows, resamples=500)["exact_match"]
    assert (found.low, found.high) == pytest.approx((result.low, result.high))
    apart = bootstrap(ExactMatch(), build_rows(40), resamples=500)["exact_match"]
    assert found.high - found.low > apart.high - apart.low


def test_a_pair_that_is_drawn_twice_is_two_pairs() -> None:
    rows = [
        {
            "id": f"{pair}{side}",
            "group": f"{pair}",
            "prediction": "a" if pair % 3 else side,
            "references": ["a"],
        }
        for pair in range(12)
        for side in "ab"
    ]
    scores = np.array([100.0 if pair % 3 else 0.0 for pair in range(12)])
    result = scipy.stats.bootstrap(
        (scores,), np.mean, n_resamples=200, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap(PairAccuracy(), rows, resamples=200)["pair_accuracy"]
    assert (found.low, found.high) == pytest.approx((result.low, result.high))


@pytest.mark.parametrize("metric", [ExactMatch(), EditRate()], ids=lambda metric: type(metric).__name__)
def test_a_difference_is_scipys_of_paired_samples(metric: Metric) -> None:
    rows, field = build_rows(30), next(iter(metric.higher_is_better))
    others = [{**row, "prediction": row["references"][0]} for row in rows]

    def statistic(one: np.ndarray, other: np.ndarray) -> float:
        return (
            metric.compute([rows[i] for i in one])[field]
            - metric.compute([others[i] for i in other])[field]
        )

    result = scipy.stats.bootstrap(
        (np.arange(30), np.arange(30)),
        statistic,
        paired=True,
        n_resamples=200,
        batch=1,
        vectorized=False,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    found = bootstrap_difference(metric, rows, others, resamples=200)[field]
    assert (found.low, found.high) == pytest.approx((result.low, result.high))
    assert found.value == pytest.approx(metric.compute(rows)[field] - metric.compute(others)[field])


def test_no_difference_is_none() -> None:
    rows = build_rows(30)
    assert bootstrap_difference(ExactMatch(), rows, rows)["exact_match"] == Interval(0, 0, 0, 1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda rows: rows[:-1], "got 5 and 4 rows", id="fewer"),
        pytest.param(lambda rows: rows[::-1], "row `0` meets `4`", id="another order"),
    ],
)
def test_answers_to_other_examples_are_refused(change: Any, message: str) -> None:
    rows = build_rows(5)
    with pytest.raises(UserError, match=message):
        bootstrap_difference(ExactMatch(), rows, change(rows))


def test_a_metric_that_takes_too_long_has_fewer_samples_or_no_interval() -> None:
    rows = build_rows(12)
    assert bootstrap(EditRate(), rows, resamples=150, seconds=60)["cer"].resamples == 150
    assert bootstrap(EditRate(), rows, seconds=0) == {}
    # A mean is cheap at any size.
    assert list(bootstrap(Several(ExactMatch(), {"edit": EditRate()}), rows, seconds=0)) == ["exact_match"]


def test_one_unit_has_no_interval() -> None:
    assert bootstrap(ExactMatch(), build_rows(1)) == {}
    assert bootstrap(ExactMatch(), [{**row, "image": "a.jpg"} for row in build_rows(5)]) == {}


def test_a_field_that_the_whole_set_shows_to_be_no_mean_is_not_taken_for_one() -> None:
    """`average` is near `overall`, and equal where the groups have as many rows."""
    rows = build_rows(20)
    intervals = bootstrap(GroupedAccuracy(), rows, resamples=FEWEST)
    assert astuple(intervals["average"]) == expect(GroupedAccuracy(), rows, "average", FEWEST)
