"""Two runs on the same rows: whether their difference is more than chance, and which answers differ."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.metrics.bootstrap import Interval, bootstrap_difference
from finetune.metrics.metric import Metric

Row = Mapping[str, Any]
Key = tuple[str, ...]

_TRUTH = ("references", "objects", "width", "height")
"""What both rows must have in common to be the same question."""


@dataclass(frozen=True)
class Differing:
    """A row that two runs answered differently."""

    key: Key
    index: int
    """Of the first run's row, in its file."""
    first: Row
    second: Row
    gain: float
    """Score of the second less that of the first, positive where the second is better; 0 without scores."""


@dataclass(frozen=True)
class Pair:
    """Two runs on their common rows."""

    common: int
    """Rows that both have."""
    alone: tuple[int, int]
    """Rows that only the first, and only the second has."""
    differences: Mapping[str, Interval]
    """Field -> the second run's score less the first's, with its interval."""
    differing: Sequence[Differing]
    """Those with the largest gain or loss first."""


def match_rows(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Key, int, Row, Row]]:
    """Return the rows of both sets that ask the same, with key and index, in the order of the first."""
    others = dict(zip(_keys(second), second, strict=True))
    pairs = [
        (key, index, row, others[key])
        for index, (key, row) in enumerate(zip(_keys(first), first, strict=True))
        if key in others
    ]
    return [pair for pair in pairs if _truth(pair[2]) == _truth(pair[3])]


def identify(rows: Sequence[Row]) -> str:
    """Return the same digest for the same questions, whatever the answers are."""
    texts = sorted(f"{key} {_truth(row)}" for key, row in zip(_keys(rows), rows, strict=True))
    return hashlib.sha256("\n".join(texts).encode("utf-8", "replace")).hexdigest()


def _keys(rows: Sequence[Row]) -> list[Key]:
    """Return what names each row: its id, and the prompt where several rows have the same one."""
    counts = Counter(str(row.get("id")) for row in rows)
    return [
        (str(row.get("id")), str(row.get("prefix")))
        if counts[str(row.get("id"))] > 1
        else (str(row.get("id")),)
        for row in rows
    ]


def _truth(row: Row) -> str:
    return json.dumps([row.get(name) for name in _TRUTH], sort_keys=True)


def compare_pair(
    metric: Metric, first: Sequence[Row], second: Sequence[Row], seconds: float = 20.0
) -> Pair | None:
    """Compare two runs on the rows that both have; None if there are none.

    Args:
        metric: of both runs.
        first: prediction rows.
        second: prediction rows.
        seconds: limit of the bootstrap, about.

    Raises:
        UserError: a row lacks what the metric needs.
    """
    pairs = match_rows(first, second)
    if not pairs:
        return None
    rows, others = [pair[2] for pair in pairs], [pair[3] for pair in pairs]
    # Ids are made unique: several prompts about one image may share theirs.
    named = [[{**row, "id": str(number)} for number, row in enumerate(part)] for part in (others, rows)]
    sign = 1 if next(iter(metric.higher_is_better.values()), True) else -1
    differing = [
        Differing(key, index, row, other, sign * (_score(other) - _score(row)))
        for key, index, row, other in pairs
        if row.get("prediction") != other.get("prediction")
    ]
    return Pair(
        len(pairs),
        (len(first) - len(pairs), len(second) - len(pairs)),
        bootstrap_difference(metric, *named, seconds=seconds),
        sorted(differing, key=lambda one: -abs(one.gain)),
    )


def _score(row: Row) -> float:
    score = row.get("score")
    return float(score) if isinstance(score, int | float) else 0.0


def is_real(difference: Interval) -> bool:
    """Return whether the 95 % interval of a difference does not contain 0."""
    return not difference.low <= 0 <= difference.high


def describe_pair(pair: Pair, names: tuple[str, str], field: str) -> list[str]:
    """Return what two runs differ in, in sentences.

    Args:
        pair: the two runs on their common rows.
        names: of the runs.
        field: the main field.
    """
    lines = []
    difference = pair.differences.get(field)
    if difference is not None:
        verdict = "is more than chance" if is_real(difference) else "may be chance"
        lines.append(
            f"{names[1]} less {names[0]}: {field} {difference.value:+.4g} [{difference.low:+.4g}, "
            f"{difference.high:+.4g}] on {pair.common} common rows: the difference {verdict} (paired "
            f"bootstrap, 95 %, {difference.resamples} samples)."
        )
    else:
        lines.append(f"{pair.common} common rows are too few, or the metric too slow, for an interval.")
    better = [sum(one.gain > 0 for one in pair.differing), sum(one.gain < 0 for one in pair.differing)]
    lines.append(
        f"{len(pair.differing)} answers differ: {better[0]} are better in {names[1]}, {better[1]} in "
        f"{names[0]}."
    )
    if any(pair.alone):
        lines.append(
            f"Not the same rows: {pair.alone[0]} of {names[0]} and {pair.alone[1]} of {names[1]} are left "
            "out."
        )
    return lines
