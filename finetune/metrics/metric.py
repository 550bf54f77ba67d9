"""What a metric is, and a score over a whole set and each of its groups."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from finetune.codecs.objects import ObjectReader
from finetune.metrics.fields import read_group
from finetune.metrics.jsonl import Selection


class Metric(Protocol):
    """Scores one prediction at a time and a set of them together.

    A metric's fields are in percent unless its docstring says otherwise. Before training it scores the
    validation split once with empty answers (`compute_by_group`), so that a row, or a set, that lacks what
    it needs is reported before any weight is loaded: what only a set shows belongs into `compute`.
    """

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Every field of `compute`, the main one first, and whether more of it is better."""

    def score(self, row: Mapping[str, object]) -> float | None:
        """Score one prediction row; None where only a set has a score.

        Raises:
            UserError: the row lacks what the metric needs.
        """

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Score a set of rows, which is not empty.

        Raises:
            UserError: a row, or the set, lacks what the metric needs.
        """


@dataclass(frozen=True)
class Compared:
    """What of an object a metric compares."""

    boxes: bool
    masks: bool
    labels: bool
    """An object counts only for its own label."""


@runtime_checkable
class ObjectMetric(Metric, Protocol):
    """A metric of boxes or masks, which are read from a row's text where the row has none."""

    @property
    def compared(self) -> Compared:
        """What counts of an object."""

    @property
    def reader(self) -> ObjectReader:
        """Reads objects from text as the metric's options say."""


def compute_by_group(
    metric: Metric,
    rows: Sequence[Mapping[str, object]],
    see: Callable[[Mapping[str, object]], None] | None = None,
) -> dict[str, Any]:
    """Score a set and each of its groups.

    Args:
        metric: the metric.
        rows: prediction rows, at least one; `group` may be None or missing.
        see: called with each row once, before the set is scored, as rows on disk are read anew each time.

    Returns:
        The metric's fields, `n`, and `by_group` where any row has one.

    Raises:
        UserError: a row, or the set, lacks what the metric needs.
    """
    groups: dict[str, array[int]] = defaultdict(lambda: array("q"))
    for index, row in enumerate(rows):
        group = read_group(row)
        if group is not None:
            groups[group].append(index)
        if see is not None:
            see(row)
    result: dict[str, Any] = {**metric.compute(rows), "n": len(rows)}
    if groups:
        result["by_group"] = {
            name: {**metric.compute(Selection(rows, members)), "n": len(members)}
            for name, members in sorted(groups.items())
        }
    return result


def directions(metric: Metric) -> dict[str, bool]:
    """Return every number that an evaluation may report, and whether more of it is better."""
    return {**metric.higher_is_better, "confidence": True, "loss": False}


def mean_score(metric: Metric, rows: Sequence[Mapping[str, object]]) -> float:
    """Return the mean of the rows' scores, for metrics that are one."""
    return sum(metric.score(row) or 0.0 for row in rows) / len(rows)


def mean_of_groups(
    metric: Metric,
    rows: Sequence[Mapping[str, object]],
    read: Callable[[Mapping[str, object]], str | None] = read_group,
) -> tuple[float, float | None]:
    """Return the mean of the rows' scores, and the mean over groups, which all have one weight.

    Args:
        metric: scores the rows.
        rows: at least one.
        read: returns a row's group; a row without one counts in the first mean alone.

    Returns:
        The second one is None where no row has a group.
    """
    overall = 0.0
    sums: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for row in rows:
        score = metric.score(row) or 0.0
        overall += score
        if (group := read(row)) is not None:
            sums[group] += score
            counts[group] += 1
    means = [sums[group] / count for group, count in counts.items()]
    return overall / len(rows), sum(means) / len(means) if means else None
