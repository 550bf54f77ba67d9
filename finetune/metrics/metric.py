"""What a metric is, and a score over a whole set and each of its groups."""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from finetune.metrics.rows import Selection


class Metric(Protocol):
    """Scores one prediction at a time and a set of them together.

    A metric's fields are in percent unless its docstring says otherwise.
    """

    higher_is_better: Mapping[str, bool]
    """Every field of `compute`, the main one first, and whether more of it is better."""

    def score(self, row: Mapping[str, Any]) -> float | None:
        """Score one prediction row; null where only a set has a score.

        Raises:
            UserError: the row lacks what the metric needs.
        """

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Score a set of rows, which is not empty."""


def compute_by_group(metric: Metric, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score a set and each of its groups.

    Args:
        metric: the metric.
        rows: prediction rows; `group` may be null or missing.

    Returns:
        The metric's fields, `n`, and `by_group` where any row has one.
    """
    groups: dict[str, array[int]] = defaultdict(lambda: array("q"))
    for index, row in enumerate(rows):
        if row.get("group") is not None:
            groups[str(row["group"])].append(index)
    result: dict[str, Any] = {**metric.compute(rows), "n": len(rows)}
    if groups:
        result["by_group"] = {
            name: {**metric.compute(Selection(rows, members)), "n": len(members)}
            for name, members in sorted(groups.items())
        }
    return result


def mean_score(metric: Metric, rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean of the rows' scores, for metrics that are one."""
    return sum(metric.score(row) or 0.0 for row in rows) / len(rows)
