"""The scores of a run, with their intervals and those without images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OF_EVERY_METRIC = {"n", "confidence", "unfinished", "loss"}
"""Fields that say how an evaluation went; they rank no models."""


@dataclass(frozen=True)
class Score:
    """One field of an evaluation."""

    field: str
    value: float
    interval: tuple[float, float] | None = None
    """The lower and upper end of the 95 % interval."""
    blank: float | None = None
    """With gray images."""


@dataclass(frozen=True)
class ScoredSet:
    """One evaluated set."""

    split: str
    n: int
    """Number of examples."""
    scores: tuple[Score, ...]
    dataset: str | None = None
    """As the evaluation names it."""
    blank_n: int | None = None
    """Number of examples that were also answered with gray images; None if there are none."""
    command: tuple[str, ...] = field(default=())
    """Words of a later evaluation; empty for the run's own."""


def list_scored(metrics: Mapping[str, Any]) -> tuple[ScoredSet, ...]:
    """Return the sets that a run was scored on, its own first.

    Args:
        metrics: the content of `metrics.json`.
    """
    entries = []
    if isinstance(metrics.get("final"), dict):
        entries.append({**metrics, "scores": metrics["final"], "split": "validation"})
    if entries and isinstance(metrics.get("test"), dict):
        beside = metrics.get("test_evidence") or {}
        entries.append({**beside, "scores": metrics["test"], "split": "test"})
    entries += [entry for entry in metrics.get("evaluate", []) if isinstance(entry.get("scores"), dict)]
    return tuple(_read_set(entry) for entry in entries)


def _read_set(entry: Mapping[str, Any]) -> ScoredSet:
    scores, intervals = entry["scores"], entry.get("intervals") or {}
    baseline = entry.get("baseline") or {}
    blank = baseline.get("scores") or {}
    return ScoredSet(
        split=str(entry.get("split", "validation")),
        n=int(scores.get("n", 0)),
        scores=tuple(
            Score(
                name,
                float(value),
                (float(ends[0]), float(ends[1])) if (ends := intervals.get(name)) else None,
                float(blank[name]) if isinstance(blank.get(name), int | float) else None,
            )
            for name, value in scores.items()
            if _is_score(name, value)
        ),
        dataset=entry.get("dataset"),
        blank_n=baseline.get("n") if blank else None,
        command=tuple(map(str, entry.get("command") or ())),
    )


def _is_score(name: str, value: object) -> bool:
    """Whether a field is a score; an AP of -1 says that the set has no object of that size."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and name not in _OF_EVERY_METRIC and value != -1
