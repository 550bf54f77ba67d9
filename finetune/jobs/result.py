"""What a job returns: values for a program, of which the command line prints some."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from finetune.errors import UserError, print_json, printable
from finetune.example import PredictionRow
from finetune.metrics.doubts import Doubt


@dataclass(frozen=True)
class Objective:
    """The number by which runs are compared, such as by the sweeper of a search."""

    field: str
    """`evaluation.metric_for_best_model`, else the metric's main field."""
    value: float
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every job returns."""

    objective: Objective | None = None
    """The number by which runs are compared, where a job has one."""
    interrupted: Signals | None = None
    """The signal that stopped the job before its end."""

    def show(self) -> None:
        """Print what the command line shows of the result; what was logged is not repeated."""


@dataclass(frozen=True)
class TrainResult(Result):
    """A training that has ended."""

    folder: Path
    """The run's folder; `adapter` or `model` in it has the weights."""
    scores: Mapping[str, Any]
    """Of the final model over the validation split; empty where the training was interrupted."""
    metrics: Mapping[str, Any]
    """The content of `metrics.json`; empty where the training was interrupted."""
    history: list[dict[str, float]]
    """Each logged step in order: `step` and `epoch` with `loss`, `learning_rate` and `grad_norm`, or with
    an evaluation's fields, whose names begin with `eval_`."""

    @property
    def rows(self) -> list[PredictionRow]:
        """The prediction rows of the validation split, read from the folder."""
        return _read_rows(self.folder / "predictions/validation.jsonl")


@dataclass(frozen=True)
class EvaluateResult(Result):
    """A model that was scored."""

    folder: Path
    """The run's folder."""
    file: Path
    """The prediction rows."""
    scores: Mapping[str, Any]
    """Over the validation split."""

    @property
    def rows(self) -> list[PredictionRow]:
        """The prediction rows, read from their file."""
        return _read_rows(self.file)


@dataclass(frozen=True)
class PredictResult(Result):
    """Answers about images."""

    rows: Iterable[PredictionRow]
    """A prediction row for each image; from `predict.run` one at a time, as they are generated."""
    left_out: list[str]
    """Why an image has no answer; complete once `rows` has been read to its end."""

    def show(self) -> None:
        """Print each row as soon as it is generated.

        Raises:
            UserError: images were left out.
        """
        count = 0
        for row in self.rows:
            print_json(row)
            count += 1
        if faults := self.left_out:
            more = f" And {len(faults) - 3} more." if len(faults) > 3 else ""
            total = count + len(faults)
            raise UserError(f"{len(faults)} of {total} images were left out: {' '.join(faults[:3])}{more}")


@dataclass(frozen=True)
class ScoreResult(Result):
    """Predictions that were scored."""

    scores: Mapping[str, Any]
    """Every field of the metric, `n`, and the same `by_group` where rows have one."""
    doubts: list[Doubt]
    """What may not be meant in the rows."""

    def show(self) -> None:
        """Print the scores, and the doubts on standard error."""
        for doubt in self.doubts:
            print(printable(f"{doubt.level.value}: {doubt.text}"), file=sys.stderr, flush=True)
        print_json(self.scores)


@dataclass(frozen=True)
class PlanResult(Result):
    """What a training would do."""

    table: str
    """Parameters of each tower: frozen, learning, adapted, quantized."""
    learning: int
    """Parameters that learn."""
    parameters: int
    """All parameters, with adapters."""
    description: str = ""
    """Model, device, data, and the first prompt with its answer."""
    train_examples: int = 0
    validation_examples: int = 0
    batch: int = 0
    """Examples in one step, over all processes."""
    steps: int = 0

    @property
    def epochs(self) -> float:
        """Passes over the training split."""
        return self.steps * self.batch / self.train_examples


def choose_objective(
    scores: Mapping[str, Any], field: str | None, higher_is_better: Mapping[str, bool]
) -> Objective | None:
    """Return the number by which a run is compared with others; None where it was not computed.

    Args:
        scores: of an evaluation.
        field: the one that chooses the best checkpoint; None: the metric's main one.
        higher_is_better: of the metric, the main field first.
    """
    directions = {**higher_is_better, "confidence": True, "loss": False}
    name = field or next(iter(directions))
    value = scores.get(name)
    return None if value is None else Objective(name, float(value), directions[name])


def _read_rows(file: Path) -> list[PredictionRow]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
