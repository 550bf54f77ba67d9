"""The results of jobs, as values for a program; the command line prints some of them."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from finetune.doctor.finding import Finding, Level, format_finding
from finetune.errors import UserError, print_json, printable
from finetune.example import PredictionRow, RowFinding
from finetune.metrics.bootstrap import Interval
from finetune.metrics.doubts import Doubt
from finetune.metrics.metric import Metric, directions

if TYPE_CHECKING:
    from finetune.model.memory import StepMemory

_MOST_SHOWN = 5
"""Findings of a kind that are printed."""

_NAMES = re.compile(r"`[^`]*`|'[^']*'|\"[^\"]*\"|\S*[/\d]\S*|line \d+")
"""What differs between two findings of a kind: quoted texts, paths and numbers."""
_MOST_LISTED = 20
"""Most images without an answer that are named at the end, where no file lists them."""


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

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: 0, or what a job's own text says."""
        return 0

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
    pushed: Result | None = None
    """What `push.at_end=true` published, or why not: a `PushResult`."""

    @property
    def exit_code(self) -> int:
        """Not 0 if the result should have been published and was not."""
        return 0 if self.pushed is None else self.pushed.exit_code

    def show(self) -> None:
        """Print what was published."""
        if self.pushed is not None:
            self.pushed.show()

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
    listed: Path | None = None
    """The file with these messages, if there is one."""

    def show(self) -> None:
        """Print each row as soon as it is generated.

        Raises:
            UserError: images were left out.
        """
        answered = set()
        for row in self.rows:
            print_json(row)
            answered.add(row["image"])
        if faults := self.left_out:
            most = _MOST_LISTED if self.listed is None else 3
            more = f" And {len(faults) - most} more." if len(faults) > most else ""
            more += "" if self.listed is None else f" All of them: {self.listed}."
            total = len(answered) + len(faults)
            raise UserError(
                f"{len(faults)} of {total} images were left out: {' '.join(faults[:most])}{more}"
            )


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
class ReportResult(Result):
    """The report of a run."""

    page: Path
    """`report.html`: one file, with its images and plots inside."""
    text: Path
    """`report.md`: the same without images and plots."""


@dataclass(frozen=True)
class CompareResult(Result):
    """Runs side by side."""

    table: str
    """As the command line prints it."""
    page: Path
    """The page with all scores, plots and differing answers."""
    rows: list[dict[str, Any]]
    """For each run `run`, its folder; `settings`, those that differ; `scores`, `intervals` and `cost`."""
    differences: Mapping[str, Interval]
    """For two runs on the same rows: field -> the second's score less the first's, with its interval."""

    def show(self) -> None:
        """Print the table."""
        print(self.table)


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
    """Bytes of a training step at its peak, on one device, computed."""
    description: str = ""
    """Model, device, data, and the first prompt with its answer."""
    train_examples: int = 0
    validation_examples: int = 0
    batch: int = 0
    """Examples in one step, over all processes."""
    steps: int = 0
    useful_flops: float = 0.0
    """Operations that the gradient of an example needs, on average: what a rate is compared by."""
    executed_flops: float = 0.0
    """Those that this run executes for it."""
    peak_tflops: float = 0.0
    """Rate of a device, 10^12 operations a second."""
    peak_source: str = ""
    """Where it is from."""
    seconds: float = 0.0
    """Duration of all steps at this rate."""
    feature_cache: int = 0
    """Bytes of the features of all training images."""
    fit: str | None = None
    """How the run fits into the memory of `fit=`: the words to add."""

    @property
    def epochs(self) -> float:
        """Passes over the training split."""
        return self.steps * self.batch / self.train_examples


@dataclass(frozen=True)
class PreviewResult(Result):
    """What a look at the data found."""

    folder: Path
    """Has `preview.html`, `pictures/` and `findings.jsonl`."""
    findings: list[RowFinding]
    """Faults and doubts."""
    rows: int
    """Rows that were checked."""
    images: int
    """Rows whose images were decoded."""
    seconds: float
    """Duration of the check."""
    validated: bool
    """Whether all images were decoded, and faults are an exit code."""

    @property
    def faults(self) -> list[RowFinding]:
        """The findings that training refuses, or that make its score wrong."""
        return [finding for finding in self.findings if finding.is_fault]

    @property
    def exit_code(self) -> int:
        """1 where `validate=true` found faults."""
        return int(self.validated and bool(self.faults))

    def show(self) -> None:
        """Print a few findings of each kind, and where all of them are."""
        for group in group_findings(self.findings):
            for finding in group[:_MOST_SHOWN]:
                print(printable(f"{'fault' if finding.is_fault else 'doubt'}: {finding}"))
            if len(group) > _MOST_SHOWN:
                print(f"... and {len(group) - _MOST_SHOWN:,} more of this kind")
        doubts = len(self.findings) - len(self.faults)
        rate = self.rows / max(self.seconds, 1e-9)
        print(
            f"{self.rows:,} rows and {self.images:,} images checked in {self.seconds:.1f} s "
            f"({rate:,.0f} rows/s): {len(self.faults):,} faults, {doubts:,} doubts"
        )
        if self.faults and not self.validated:
            print("validate=true decodes every image too, and its exit code says whether there are faults")
        print(printable(f"{self.folder}/preview.html shows the data"), flush=True)


def group_findings(findings: Iterable[RowFinding]) -> list[list[RowFinding]]:
    """Return findings that differ only in names and numbers together, faults first."""
    groups: dict[tuple[bool, str, str], list[RowFinding]] = {}
    for finding in findings:
        kind = _NAMES.sub("", finding.reason)
        groups.setdefault((not finding.is_fault, finding.split, kind), []).append(finding)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


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
