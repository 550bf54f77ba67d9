"""What a run or a published result says of how it was made, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import UserError, describe
from finetune.run.checkpoints import digest_weights
from finetune.run.files import read_json
from finetune.run.folder import RunFolder
from finetune.run.record import read_places
from finetune.run.results import read_metrics
from finetune.strict_json import parse_json

_SPLITS = ("validation", "test")


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
    is_merged: bool = False
    """Whether the weights were merged after they were scored."""


def read_record(folder: RunFolder, name: str) -> Record:
    """Read a result.

    Args:
        folder: of a run, of an evaluation, or as `push` sends it.
        name: for messages.

    Raises:
        UserError: it has no scores, or a file in it is damaged.
    """
    file, metrics = folder.metrics, read_metrics(folder)
    listed = {str(entry.get("split")): entry for entry in metrics.get("evaluate", [])}
    data = dict(_object(file, metrics, "data"))
    for entry in listed.values() if "final" not in metrics else []:
        data |= _object(file, entry, "data")
    if _is_scores(metrics.get("final")):
        answers = _object(file, metrics, "answers")
        test = {"scores": metrics.get("test"), **_object(file, metrics, "test_evidence")}
        listed = {
            "validation": {**metrics, "scores": metrics["final"], "answers": answers.get("validation")},
            "test": {**test, "answers": answers.get("test")},
        }
    splits = {
        split: _read_split(folder, listed[split], split)
        for split in _SPLITS
        if _is_scores(listed.get(split, {}).get("scores"))
    }
    if not splits:
        raise UserError(
            f"{name} has no scores: expected a finished run, or what `push` sent of one, with metrics.json."
        )
    environment: Mapping[str, Any] = {}
    if folder.environment.is_file():
        read = {"environment.json": read_json(folder.environment)}
        environment = _object(folder.environment, read, "environment.json")
        for key in ("packages", "base"):
            _object(folder.environment, environment, key)
    return Record(
        name,
        splits,
        {split: _object(file, data, split) for split in data},
        environment,
        _object(file, metrics, "settings") if "settings" in metrics else None,
        _object(file, _object(file, metrics, "result"), "sha256"),
        read_places(folder.config),
        is_merged="merged" in _object(file, metrics, "result"),
    )


def _object(file: Path, values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object under a key; empty if there is none.

    Raises:
        UserError: there is something else.
    """
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(
            f"{file}: expected an object under `{key}`, but got {describe(value)}. Restore the file."
        )
    return value


def digest_result(folder: RunFolder) -> dict[str, str]:
    """Return the digests of the weights that are in a folder now."""
    result = folder.adapter if folder.adapter.is_dir() else folder.model
    return digest_weights(result) if result.is_dir() else {}


def _is_scores(value: object) -> bool:
    return isinstance(value, Mapping) and "n" in value


def _read_split(folder: RunFolder, entry: Mapping[str, Any], split: str) -> ScoredSplit:
    # The name alone: a card may come from somebody else.
    file = folder.predictions / Path(str(entry.get("rows", f"{split}.jsonl"))).name
    rows = _read_answers(file) if file.is_file() else None
    intervals = _object(folder.metrics, entry, "intervals")
    for field_name, interval in intervals.items():
        if not isinstance(interval, list) or len(interval) < 2 or not all(map(_is_number, interval)):
            raise UserError(
                f"{folder.metrics}: expected the ends of the interval of `{field_name}`, but got "
                f"{describe(interval)}. Restore the file."
            )
    return ScoredSplit(entry["scores"], intervals, entry.get("answers"), rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
