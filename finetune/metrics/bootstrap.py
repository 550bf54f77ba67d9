"""How far a score may be off: 95 % intervals by the bootstrap, also of the difference between two models.

The units of a set are drawn with replacement, as many as there are, and each sample is scored. The
interval has the middle 95 % of these scores (Efron's percentile interval). A unit is a row, all rows of
one image, or a pair.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import UserError
from finetune.metrics.fields import read_group
from finetune.metrics.metric import Metric, prepare_samples
from finetune.metrics.pair import PairAccuracy
from finetune.metrics.several import metrics_of

Row = Mapping[str, object]
Samples = dict[str, np.ndarray]
"""Field -> its value in each sample; NaN where a sample has none."""

FEWEST = 100
"""Samples that an interval needs; a metric for which they take too long gets none."""

_COUNTS = (1000, 500, 200, FEWEST)
"""A slow metric is sampled one of these numbers of times, so that repetitions seldom differ."""

_CHECKS = 4
"""Samples by which a field is recognized as the mean of the rows' scores."""


@dataclass(frozen=True)
class Interval:
    """A score, and the 95 % interval around it."""

    value: float
    low: float
    high: float
    resamples: int
    """Samples that it was computed from."""


def bootstrap(
    metric: Metric, rows: Sequence[Row], *, resamples: int = 1000, seconds: float = 5.0, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95 % interval of each field of a metric.

    Args:
        metric: scores each sample anew, because CIDEr or average precision is no mean of rows.
        rows: prediction rows; those with the same `image` are drawn together.
        resamples: most samples.
        seconds: limit for the fields that are no means, about; slow ones are sampled less often.
        seed: of the samples.

    Returns:
        Field -> interval, without the fields of which too few samples fit into the time, or have a value.
        Empty if there are fewer than two units.
    """
    samples = _sample(_Units(metric, rows), resamples, seconds, seed)
    whole = metric.compute(rows) if samples else {}
    return _find_intervals(whole, samples)


def bootstrap_difference(
    metric: Metric,
    rows: Sequence[Row],
    others: Sequence[Row],
    *,
    resamples: int = 1000,
    seconds: float = 5.0,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return by how much the fields of two answers to the same examples differ, with 95 % intervals.

    Both are scored on the same samples, so that what is hard for both does not widen the interval. If it
    contains 0, the difference may be chance.

    Args:
        metric: scores each sample.
        rows: prediction rows.
        others: rows of the same examples in the same order, whose scores are subtracted.
        resamples: most samples.
        seconds: limit, about.
        seed: of the samples.

    Raises:
        UserError: the rows are not of the same examples.
    """
    if len(rows) != len(others):
        raise UserError(
            f"Expected answers to the same examples, but got {len(rows)} and {len(others)} rows."
        )
    for one, other in zip(rows, others, strict=True):
        if one.get("id") != other.get("id"):
            raise UserError(
                f"Expected answers to the same examples in the same order, but row `{one.get('id')}` meets "
                f"`{other.get('id')}`."
            )
    first, second = (
        _sample(units, resamples, seconds / 2, seed)
        for units in (_Units(metric, rows), _Units(metric, others, like=rows))
    )
    common = [field for field in first if field in second]
    scores = [metric.compute(part) if common else {} for part in (rows, others)]
    values = {field: scores[0][field] - scores[1][field] for field in common}
    counts = {field: min(len(first[field]), len(second[field])) for field in common}
    return _find_intervals(
        values, {field: first[field][:count] - second[field][:count] for field, count in counts.items()}
    )


class _Units:
    """The rows of a set, by unit.

    Args:
        metric: a pair is a unit of `PairAccuracy`.
        rows: prediction rows.
        like: rows whose images and groups say which rows are a unit; None: the rows themselves.
    """

    def __init__(self, metric: Metric, rows: Sequence[Row], like: Sequence[Row] | None = None) -> None:
        self.metric = metric
        self.rows = rows
        self.is_paired = any(isinstance(part, PairAccuracy) for part in metrics_of(metric))
        members: dict[object, list[int]] = {}
        for index, row in enumerate(rows if like is None else like):
            key = read_group(row) if self.is_paired else row.get("image")
            members.setdefault(("row", index) if key is None else key, []).append(index)
        self.members = [np.array(one) for one in members.values()]

    def draw(self, resamples: int, seed: int) -> Iterator[np.ndarray]:
        """Yield samples: indices of units."""
        generator = np.random.default_rng(seed)
        for _ in range(resamples):
            yield generator.integers(0, len(self.members), len(self.members))

    def prepare(self) -> Callable[[np.ndarray], Mapping[str, float]]:
        """Return a function that scores a sample."""
        if self.is_paired:
            return lambda sample: self.metric.compute(self._pick_pairs(sample))
        score = prepare_samples(self.metric, self.rows)
        return lambda sample: score(np.concatenate([self.members[unit] for unit in sample]))

    def _pick_pairs(self, sample: np.ndarray) -> list[Row]:
        """Return the rows of a sample, in which a pair that was drawn twice is two pairs."""
        return [
            {**self.rows[index], "group": f"{place} {read_group(self.rows[index])}"}
            for place, unit in enumerate(sample)
            for index in self.members[unit]
        ]


def _find_intervals(values: Mapping[str, float], samples: Samples) -> dict[str, Interval]:
    intervals = {}
    for field, drawn in samples.items():
        known = drawn[np.isfinite(drawn)]
        if len(known) >= FEWEST:
            low, high = np.percentile(known, (2.5, 97.5))
            intervals[field] = Interval(values[field], float(low), float(high), len(known))
    return intervals


def _sample(units: _Units, resamples: int, seconds: float, seed: int) -> Samples:
    """Score samples; a field that is the mean of the rows' scores is computed from these alone."""
    if len(units.members) < 2:
        return {}
    score = units.prepare()
    scores = [units.metric.score(row) for row in units.rows]
    means: list[str] = []
    samples: Samples = {}
    if None not in scores:
        drawn = np.array(scores, dtype=np.float64)
        sums = np.array([drawn[one].sum() for one in units.members])
        counts = np.array([len(one) for one in units.members])
        means = _find_means(units, score, sums, counts)
        if means:
            values = [sums[one].sum() / counts[one].sum() for one in units.draw(resamples, seed)]
            samples = dict.fromkeys(means, np.array(values))
    others = [field for field in units.metric.higher_is_better if field not in means]
    if others:
        count = _affordable(units, score, resamples, seconds)
        scored = [score(sample) for sample in units.draw(count, seed)]
        samples |= {field: np.array([one.get(field, math.nan) for one in scored]) for field in others}
    return {field: samples[field] for field in units.metric.higher_is_better}


def _find_means(
    units: _Units,
    score: Callable[[np.ndarray], Mapping[str, float]],
    sums: np.ndarray,
    counts: np.ndarray,
) -> list[str]:
    """Return the fields that are the mean of the rows' scores in the set and in some samples of it."""
    fields = list(units.metric.higher_is_better)
    for sample in (np.arange(len(sums)), *units.draw(_CHECKS, seed=1)):
        mean, values = sums[sample].sum() / counts[sample].sum(), score(sample)
        fields = [one for one in fields if math.isclose(values.get(one, math.nan), mean, rel_tol=1e-9)]
    return fields


def _affordable(
    units: _Units, score: Callable[[np.ndarray], object], resamples: int, seconds: float
) -> int:
    """Return how many samples the time allows, by the time of two; 0 for fewer than an interval needs."""
    started = time.perf_counter()
    for sample in units.draw(2, seed=1):
        score(sample)
    each = (time.perf_counter() - started) / 2
    if each * resamples <= seconds:
        return resamples
    return next((count for count in _COUNTS if count <= resamples and each * count <= seconds), 0)
