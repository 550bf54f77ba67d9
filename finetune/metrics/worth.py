"""What a single answer is worth: credit between 0 and 1, and an order from the worst answer to the best."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from finetune.metrics.fields import read_prediction, read_references
from finetune.metrics.matching import match_objects
from finetune.metrics.metric import Metric

Row = Mapping[str, object]

_PERFECT = 50
"""Rows whose perfect answer is scored, to learn what a metric gives for one."""


class Worth(NamedTuple):
    """What the answers of a set are worth."""

    values: list[float]
    """For each row, more is better."""
    name: str
    """What the values are."""


def order_rows(metric: Metric, rows: Sequence[Row]) -> Worth:
    """Return what the answers are worth, to find the best and the worst.

    Args:
        metric: its score of a row, if a row has one; else F1 of boxes, or the similarity of texts.
        rows: prediction rows.

    Raises:
        UserError: a row lacks what the metric needs.
    """
    field, more_is_better = next(iter(metric.higher_is_better.items()), ("", True))
    scores = [metric.score(row) for row in rows]
    known = [score for score in scores if score is not None]
    if len(known) == len(scores):
        return Worth([score if more_is_better else -score for score in known], field)
    if all("prediction_objects" in row and "objects" in row for row in rows):
        return Worth([match_objects(row).f1 for row in rows], "F1 of boxes with IoU of at least 0.5")
    return Worth([_similarity(row) for row in rows], "similarity to the nearest reference")


def find_credits(metric: Metric, rows: Sequence[Row]) -> list[float] | None:
    """Return the share of the best possible score that each row has, 0 to 1.

    Args:
        metric: the metric.
        rows: prediction rows.

    Returns:
        None if a row has no score by itself, or a lower one is better.

    Raises:
        UserError: a row lacks what the metric needs.
    """
    if not next(iter(metric.higher_is_better.values()), False):
        return None
    scores = [metric.score(row) for row in rows]
    known = [score for score in scores if score is not None]
    best = [score for row in rows[:_PERFECT] for score in _score_perfect(metric, row) if score is not None]
    most = max([*best, *known], default=0.0)
    if len(known) < len(scores) or most <= 0:
        return None
    return [min(1.0, max(0.0, score / most)) for score in known]


def _score_perfect(metric: Metric, row: Row) -> list[float | None]:
    """Return the scores of what was annotated, given as the answer."""
    if "objects" in row:
        return [metric.score({**row, "prediction_objects": row["objects"]})]
    return [metric.score({**row, "prediction": text}) for text in dict.fromkeys(read_references(row))]


def _similarity(row: Row) -> float:
    prediction = read_prediction(row)
    return max(Levenshtein.normalized_similarity(prediction, text) for text in read_references(row))
