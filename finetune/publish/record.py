"""What a run or a published result says of how it was made, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.run.checkpoints import digest_weights
from finetune.run.files import read_json
from finetune.run.folder import RunFolder
from finetune.run.record import read_places
from finetune.run.results import read_metrics
from finetune.strict_json import parse_json


@dataclass(frozen=True)
class ScoredSplit:
    """A split as it was scored."""

    scores: Mapping[str, Any]
    intervals: Mapping[str, Any] = field(default_factory=dict)
    """Field -> lower end, upper end, samples."""
    answers: str | None = None
    """Digest of the answers; None where it was not kept."""
    rows: Mapping[str, str] | None = None
    """Id -> answer, where the prediction rows are there."""


@dataclass(frozen=True)
class Record:
    """A result: its scores, and everything that they depend on."""

    name: str
    splits: Mapping[str, ScoredSplit]
    data: Mapping[str, Mapping[str, Any]]
    """Split -> what `fingerprint_data` returned."""
    environment: Mapping[str, Any]
    """What `environment.json` has."""
    settings: Mapping[str, Any] | None
    """What `read_settings` returned when the result was written; None where it was not kept."""
    weights: Mapping[str, str]
    """File -> its digest, as it was written; empty where that was not kept."""
    places: Mapping[str, str]
    """Setting -> the folder or name of data, base or adapter."""


def read_record(folder: RunFolder, name: str) -> Record:
    """Read a result.

    Args:
        folder: of a run, of an evaluation, or as `push` sends it.
        name: for messages.

    Raises:
        UserError: it has no scores, or a file in it is damaged.
    """
    metrics = read_metrics(folder)
    entries = {str(entry.get("split")): entry for entry in metrics.get("evaluate", [])}
    if _is_scores(metrics.get("final")):
        test = {"scores": metrics.get("test"), **(metrics.get("test_evidence") or {})}
        answers = metrics.get("answers") or {}
        entries = {
            "validation": {**metrics, "scores": metrics["final"], "answers": answers.get("validation")}
        }
        if _is_scores(test["scores"]):
            entries["test"] = {**test, "answers": answers.get("test")}
    splits = {
        split: _read_split(folder, entry, split)
        for split, entry in entries.items()
        if _is_scores(entry.get("scores"))
    }
    if not splits:
        raise UserError(
            f"{name} has no scores: expected a finished run, or what `push` sent of one, with metrics.json."
        )
    data = dict(metrics.get("data") or {})
    for entry in metrics.get("evaluate", []) if "final" not in metrics else []:
        data |= entry.get("data") or {}
    made_with = read_json(folder.environment) if folder.environment.is_file() else {}
    settings = metrics.get("settings")
    weights = (metrics.get("result") or {}).get("sha256") or {}
    return Record(name, splits, data, made_with, settings, weights, read_places(folder.config))


def digest_result(folder: RunFolder) -> dict[str, str]:
    """Return the digests of the weights that are in a folder now."""
    result = folder.adapter if folder.adapter.is_dir() else folder.model
    return digest_weights(result) if result.is_dir() else {}


def _is_scores(value: object) -> bool:
    return isinstance(value, Mapping) and "n" in value


def _read_split(folder: RunFolder, entry: Mapping[str, Any], split: str) -> ScoredSplit:
    file = folder.root / str(entry.get("rows", f"predictions/{split}.jsonl"))
    rows = _read_answers(file) if file.is_file() else None
    answers = entry.get("answers")
    return ScoredSplit(entry["scores"], entry.get("intervals") or {}, answers, rows)


def _read_answers(file: Path) -> dict[str, str]:
    """Return id -> answer of prediction rows.

    Raises:
        UserError: a line is not a prediction row.
    """
    answers = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row: Any = parse_json(line)
                answers[str(row["id"])] = str(row["prediction"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{file} line {number}: expected a prediction row with `id` and `prediction`. Restore "
                    "the file, or move it away."
                ) from error
    return answers
