"""Runs as a table: what differs, the scores with their intervals, and the cost."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.comparison.runs import COST, LEARNING, FinishedRun, Value, find_differences
from finetune.errors import printable
from finetune.metrics.bootstrap import Interval
from finetune.report.page import format_number

_MOST_TEXT = 32
"""Characters of a setting on the terminal."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    runs: Sequence[FinishedRun]
    settings: Sequence[str]
    """Keys in which they differ."""
    fields: Sequence[str]
    """Scores of any of them, the main field first."""
    higher_is_better: Mapping[str, bool]
    costs: Sequence[str]
    """What is known of any of them."""
    notes: Sequence[str]
    """What a reader must not overlook."""
    best: FinishedRun | None
    """Of those with the same metric on the same rows; None if they are not comparable."""
    missing: Mapping[str, str]
    """Runs without scores -> why."""

    @property
    def main(self) -> str:
        """The field that decides."""
        return self.fields[0]


def compare(
    runs: Sequence[FinishedRun],
    higher_is_better: Mapping[str, bool],
    main: str | None,
    notes: Sequence[str],
    missing: Mapping[str, str],
) -> Comparison:
    """Put runs side by side.

    Args:
        runs: at least one.
        higher_is_better: direction of the fields, the main field first.
        main: the field that decides; None if the runs are not comparable.
        notes: why, or what else limits the comparison.
        missing: runs without scores -> why.
    """
    known = {name for run in runs for name in run.scores}
    fields = [name for name in higher_is_better if name in known] or sorted(known)
    fields.sort(key=lambda name: name != main)
    costs = [name for name in (*COST.values(), LEARNING) if any(name in run.cost for run in runs)]
    scored = [run for run in runs if main in run.scores]
    best = None
    if main is not None and len(scored) > 1:
        sign = 1 if higher_is_better[main] else -1
        # As for checkpoints, the lower loss decides between equal scores.
        best = max(scored, key=lambda run: (sign * run.scores[main], -run.scores.get("loss", 0.0)))
    return Comparison(
        runs, find_differences(runs), fields, higher_is_better, costs, list(notes), best, missing
    )


def format_score(value: float | None, interval: Interval | None) -> str:
    """Return a score with its interval, such as `96.3 [94.1, 98]`."""
    text = format_number(value)
    return (
        text
        if interval is None
        else f"{text} [{format_number(interval.low)}, {format_number(interval.high)}]"
    )


def write_terminal(comparison: Comparison, width: int) -> str:
    """Return the table as text; turned where it is wider than the terminal, and does not get wider by it.

    Args:
        comparison: the runs.
        width: columns of the terminal.
    """
    fields = [name for name in comparison.fields if name == comparison.main or name == "loss"]
    head = ["run", *comparison.settings, *fields, *comparison.costs]
    rows = [
        [
            f"{run.name} *" if run is comparison.best else run.name,
            *(_shorten(run.settings.get(key)) for key in comparison.settings),
            *(format_score(run.scores.get(name), run.intervals.get(name)) for name in fields),
            *(format_number(run.cost.get(name)) for name in comparison.costs),
        ]
        for run in comparison.runs
    ]
    texts = [align([head, *rows]), align([list(line) for line in zip(head, *rows, strict=True)])]
    widths = [max(map(len, text)) for text in texts]
    lines = texts[1] if widths[0] > width and widths[1] < widths[0] else texts[0]
    lines = [*lines, *(f"{name}: no scores. {why}" for name, why in comparison.missing.items())]
    if comparison.best is not None:
        top = comparison.best.scores[comparison.main]
        ties = sum(run.scores.get(comparison.main) == top for run in comparison.runs)
        equal = f"; {ties} runs have the same, the loss decides" if ties > 1 else ""
        lines.append(f"* best by {comparison.main}{equal}")
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns are aligned, with two spaces between them."""
    cells = [[printable(" ".join(cell.split())) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _shorten(value: Value) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."


def write_csv(comparison: Comparison) -> str:
    """Return the table with every score as comma-separated values."""
    columns: list[tuple[str, list[Value]]] = [("run", [run.name for run in comparison.runs])]
    columns += [(key, [run.settings.get(key) for run in comparison.runs]) for key in comparison.settings]
    for name in comparison.fields:
        columns.append((name, [run.scores.get(name) for run in comparison.runs]))
        ends = [run.intervals.get(name) for run in comparison.runs]
        if any(ends):
            columns.append((f"{name}_low", [None if one is None else one.low for one in ends]))
            columns.append((f"{name}_high", [None if one is None else one.high for one in ends]))
    columns += [(name, [run.cost.get(name) for run in comparison.runs]) for name in comparison.costs]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(name for name, _ in columns)
    writer.writerows(zip(*(values for _, values in columns), strict=True))
    return text.getvalue()
