"""Finished runs, read from their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from finetune.errors import UserError, suggest
from finetune.metrics.bootstrap import Interval
from finetune.run.folder import RunFolder
from finetune.run.results import read_metrics

Value = str | int | float | None

_SKIPPED = ("defaults", "runs_dir", "tracker", "report", "published")
"""Settings that change neither what is learned nor how it is scored."""

COST = {"seconds": "seconds", "peak_memory_gib": "peak memory, GiB"}
"""Measurement of the training -> its name in the table."""

LEARNING = "learning parameters"


@dataclass(frozen=True)
class FinishedRun:
    """A run that has scores."""

    name: str
    """As it is shown."""
    folder: Path
    settings: Mapping[str, Value]
    """By dotted key."""
    scores: Mapping[str, float]
    """Of the final evaluation, or of the last one of a folder without a training."""
    intervals: Mapping[str, Interval]
    """Of some of the scores."""
    cost: Mapping[str, float]
    """What the training took: the values of `COST`, and `LEARNING`."""
    rows: Path
    """File of the prediction rows, which may not exist."""
    command: Sequence[str] = field(default_factory=list)
    """Words that started it; empty if they are not known."""


def find_folders(named: Sequence[str]) -> tuple[list[Path], Path | None]:
    """Return the folders of the runs that are meant.

    Args:
        named: folders of runs, or of sweeps, whose runs are meant.

    Returns:
        The folders, and the sweep if nothing but one was named.

    Raises:
        UserError: one of them is neither, or is named twice, or there are fewer than two runs.
    """
    found: list[Path] = []
    sweep: Path | None = None
    for folder in map(Path, named):
        members = list_members(folder)
        if not (folder / "config.yaml").is_file() and not members:
            raise UserError(_explain_missing(folder))
        sweep = folder if members and len(named) == 1 else None
        found += members or [folder]
    for folder in found:
        if [other.resolve() for other in found].count(folder.resolve()) > 1:
            raise UserError(f"{folder} is named twice. Name each run once.")
    if len(found) < 2 and sweep is None:
        raise UserError(
            "Which runs? Name two or more folders, or a sweep's: compare runs/a runs/b, or compare "
            "runs/quickstart_sweep."
        )
    return found, sweep


def list_members(sweep: Path) -> list[Path]:
    """Return the runs in a sweep's folder, by number; empty if it is not one."""
    if (sweep / "config.yaml").is_file() or not sweep.is_dir():
        return []
    members = [one for one in sweep.iterdir() if one.name.isdigit() and (one / "config.yaml").is_file()]
    return sorted(members, key=lambda one: int(one.name))


def _explain_missing(folder: Path) -> str:
    if folder.is_file():
        return f"{folder} is a file. Expected the folder of a run, such as {folder.parent}."
    if folder.is_dir():
        return (
            f"{folder} holds no run: there is no {folder / 'config.yaml'}, and no runs of a sweep (0, 1, "
            "...) are in it."
        )
    near = [one.name for one in folder.parent.iterdir()] if folder.parent.is_dir() else []
    return f"There is no {folder}.{suggest(folder.name, near)} Runs are in runs/ by default."


def read_run(folder: Path, name: str, settings: Mapping[str, Any]) -> FinishedRun:
    """Read a run.

    Args:
        folder: its folder.
        name: as it is shown.
        settings: the content of its `config.yaml`.

    Raises:
        UserError: it has no scores, or those of an older layout.
    """
    metrics = read_metrics(RunFolder(folder))
    entries = [{"rows": "predictions/validation.jsonl", **metrics, "scores": metrics.get("final")}]
    entries += metrics.get("evaluate", [])[::-1] if "final" not in metrics else []
    scored = [(entry, scores) for entry in entries if (scores := _numbers(entry.get("scores")))]
    if not scored:
        raise UserError(_explain_unscored(folder, metrics))
    (entry, scores), train = scored[0], metrics.get("train") or {}
    cost = {name: float(train[key]) for key, name in COST.items() if _is_number(train.get(key))}
    towers = metrics.get("parameters") or {}
    learning = [counts["learning"] for counts in towers.values() if _is_number(counts.get("learning"))]
    if learning:
        cost[LEARNING] = float(sum(learning))
    return FinishedRun(
        name=name,
        folder=folder,
        settings=flatten(settings),
        scores=scores,
        intervals=_read_intervals(entry.get("intervals"), scores),
        cost=cost,
        rows=folder / str(entry.get("rows", "predictions/validation.evaluate.jsonl")),
    )


def _explain_unscored(folder: Path, metrics: Mapping[str, Any]) -> str:
    if metrics:
        return (
            f"{folder / 'metrics.json'} has no scores in the layout of this version. Score the run again: "
            f"python -m finetune evaluate run={folder}"
        )
    if (folder / "adapter").is_dir() or (folder / "model").is_dir():
        return f"{folder} has no scores. Score it: python -m finetune evaluate run={folder}"
    return (
        f"{folder} has no scores: its training has not ended. Continue it (python -m finetune resume=true "
        f"run={folder}), or leave it out."
    )


def _read_intervals(stored: Any, scores: Mapping[str, float]) -> dict[str, Interval]:
    """Return the intervals that `metrics.json` has: low, high and number of samples by field."""
    found = stored if isinstance(stored, dict) else {}
    return {name: Interval(scores[name], *ends) for name, ends in found.items() if name in scores}


def _numbers(scores: Any) -> dict[str, float]:
    found = scores if isinstance(scores, dict) else {}
    return {str(key): float(value) for key, value in found.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def flatten(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Return settings by dotted key, with the choices of the groups whose values do not say which it is."""
    flat: dict[str, Value] = {}
    for entry in settings.get("defaults") or ():
        for key, choice in entry.items() if isinstance(entry, Mapping) else ():
            group = str(key).removeprefix("override /")
            if group in {"dataset", "task", "metric"}:
                flat[group] = str(choice)
    for name, value in settings.items():
        if str(name) not in _SKIPPED:
            _flatten(value, str(name), flat)
    return flat


def _flatten(value: Any, key: str, flat: dict[str, Value]) -> None:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            _flatten(item, f"{key}.{name}", flat)
    elif isinstance(value, str | int | float) or value is None:
        flat[key] = value
    else:
        flat[key] = str(value) if value else None


def find_differences(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the settings in which runs differ; one that a run does not have is `null` there."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({repr(run.settings.get(key)) for run in runs}) > 1]
