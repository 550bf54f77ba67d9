"""The results of jobs, as values for a program; the command line prints some of them."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from finetune.doctor.finding import Finding, Level, format_finding
from finetune.errors import UserError, print_json, printable
from finetune.example import PredictionRow
from finetune.metrics.doubts import Doubt
from finetune.metrics.metric import Metric, directions

if TYPE_CHECKING:
    from finetune.model.memory import StepMemory


@dataclass(frozen=True)
class Objective:
    """The number that compares runs, such as in a hyperparameter search."""

    field: str
    """`evaluation.metric_for_best_model`, or the metric's main field."""
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
    """The result of a training."""

    folder: Path
    """The run's folder; its `adapter` or `model` has the weights."""
    scores: Mapping[str, Any]
    """Scores of the final model over the validation split; empty if the training was interrupted."""
    metrics: Mapping[str, Any]
    """The content of `metrics.json`; empty if the training was interrupted."""
    history: list[dict[str, float]]
    """Each logged step in order: `step` and `epoch` with `loss`, `learning_rate` and `grad_norm`, or with
    an evaluation's fields, whose names begin with `eval_`."""

    @property
    def rows(self) -> list[PredictionRow]:
        """The prediction rows of the validation split, read from the folder."""
        return _read_rows(self.folder / "predictions/validation.jsonl")


@dataclass(frozen=True)
class EvaluateResult(Result):
    """The result of an evaluation."""

    folder: Path
    """The run's folder."""
    file: Path
    """The prediction rows."""
    scores: Mapping[str, Any]
    """Over the validation split, or with `split=test` over the test split."""

    @property
    def rows(self) -> list[PredictionRow]:
        """The prediction rows, read from their file."""
        return _read_rows(self.file)


@dataclass(frozen=True)
class PredictResult(Result):
    """Answers about images."""

    rows: Iterable[PredictionRow]
    """A prediction row for each image; `predict.run` generates them while they are iterated."""
    left_out: list[str]
    """A message for each image without an answer; complete once `rows` is exhausted."""

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
    """The scores of predictions."""

    scores: Mapping[str, Any]
    """Every field of the metric and `n`; the same in `by_group` if rows have groups."""
    doubts: list[Doubt]
    """Suspicious properties of the rows."""

    def show(self) -> None:
        """Print the scores, and the doubts on standard error."""
        for doubt in self.doubts:
            print(printable(f"{doubt.level.value}: {doubt.text}"), file=sys.stderr, flush=True)
        print_json(self.scores)


@dataclass(frozen=True)
class PlanResult(Result):
    """The size of a training that has not started."""

    table: str
    """Parameters of each tower: frozen, learning, adapted, quantized."""
    learning: int
    """Parameters that learn."""
    parameters: int
    """All parameters, with adapters."""
    memory: "StepMemory"
    """Bytes of a training step on one device, computed."""
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


@dataclass(frozen=True)
class DoctorResult(Result):
    """What works on this machine."""

    findings: Iterable[Finding]
    """Each is made while they are iterated."""

    def show(self) -> None:
        """Print each finding as soon as it is known.

        Raises:
            UserError: there is a problem.
        """
        problems = 0
        for finding in self.findings:
            print(printable(format_finding(finding)), flush=True)
            problems += finding.level == Level.problem
        if problems:
            raise UserError(
                f"{problems} problem{'s' if problems > 1 else ''} found; the remedies are above."
            )


def choose_objective(scores: Mapping[str, Any], field: str | None, metric: Metric) -> Objective | None:
    """Return the number that compares a run with others; None if it was not computed.

    Args:
        scores: scores of an evaluation.
        field: the field that chooses the best checkpoint; None for the metric's main field.
        metric: has the direction of its fields, the main field first.
    """
    better = directions(metric)
    name = field or next(iter(better))
    value = scores.get(name)
    return None if value is None else Objective(name, float(value), better[name])


def _read_rows(file: Path) -> list[PredictionRow]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
