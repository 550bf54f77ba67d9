"""The report of a run, `report.html` and `report.md`, from what its folder holds."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.assembly.custom import build_metric
from finetune.assembly.report_sets import ScoredSet, describe_set
from finetune.assembly.report_usage import show_usage
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.metrics.bootstrap import Interval, bootstrap
from finetune.metrics.metric import Metric
from finetune.report.content import Cell, RunReport, Table, write_html, write_markdown
from finetune.report.options import PublishedScore
from finetune.report.run_plots import plot_history
from finetune.run.files import read_json, write_text
from finetune.run.folder import RunFolder
from finetune.run.results import read_metrics


def write_report(options: RunConfig, folder: RunFolder) -> None:
    """Write `report.html` and `report.md`.

    Args:
        options: options of the run.
        folder: its folder, with its results.

    Raises:
        UserError: the folder lacks something, such as one of an older version.
    """
    report = build_report(options, folder)
    write_text(folder.report, write_html(report))
    write_text(folder.report_text, write_markdown(report))


def build_report(options: RunConfig, folder: RunFolder) -> RunReport:
    """Return what the report says.

    Raises:
        UserError: the folder lacks something, such as one of an older version.
    """
    metric = build_metric(options)
    metrics = read_metrics(folder)
    scored = list_sets(options, folder, metrics, metric)
    if not scored:
        raise UserError(
            f"{folder.root} has no scores yet: a report is of a finished run. Continue the run with "
            "resume=true, or evaluate it."
        )
    main = next(iter(metric.higher_is_better), "")
    environment = read_json(folder.environment) if folder.environment.is_file() else {}
    prompt = str(scored[0].rows[0].get("prefix", ""))
    return RunReport(
        title=folder.root.name,
        headline=_write_headline(scored[0], main),
        about=_describe_run(options, metrics, environment),
        sets=[describe_set(one, metric, options.report.examples) for one in scored],
        training=_describe_training(metrics),
        curves=plot_history(_read_lines(folder.history), main) if folder.history.is_file() else [],
        tables=_list_parameters(metrics.get("parameters", {})),
        usage=show_usage(options, folder, prompt),
        texts={
            file.name: file.read_text(encoding="utf-8", errors="replace")
            for file in (folder.config, folder.environment)
            if file.is_file()
        },
    )


def list_sets(
    options: RunConfig, folder: RunFolder, metrics: Mapping[str, Any], metric: Metric
) -> list[ScoredSet]:
    """Return the evaluated sets of a run: those at its end, and the last that was evaluated later.

    Raises:
        UserError: the rows of a set are missing, or not those that were scored.
    """
    sets = []
    if "final" in metrics:
        entry = {**metrics, "scores": metrics["final"], "rows": "predictions/validation.jsonl"}
        sets.append(_read_set(options, folder, "Final evaluation", entry, metric))
    if "test" in metrics:
        entry = {
            **metrics.get("test_evidence", {}),
            "scores": metrics["test"],
            "rows": "predictions/test.jsonl",
        }
        sets.append(_read_set(options, folder, "Final evaluation, test split", entry, metric))
    for number, entry in enumerate(metrics.get("evaluate", []), 1):
        if number == len(metrics["evaluate"]):
            title = f"Evaluation {number}" if number > 1 or sets else "Evaluation"
            sets.append(_read_set(options, folder, title, entry, metric))
    return sets


def _read_set(
    options: RunConfig, folder: RunFolder, title: str, entry: Mapping[str, Any], metric: Metric
) -> ScoredSet:
    # An entry without the name of its file is of a version that wrote no rows beside it.
    name, scores = entry.get("rows", "predictions/validation.evaluate.jsonl"), entry.get("scores", {})
    file = folder.root / name
    if not file.is_file():
        raise UserError(
            f"{file}: the prediction rows of the {title.lower()} are missing. A run of an older version "
            f"may lack them: python -m finetune evaluate run={folder.root} writes them anew."
        )
    rows = _read_lines(file)
    if not rows or len(rows) != scores.get("n"):
        raise UserError(
            f"{file} has {len(rows)} rows, but {folder.metrics} has the scores of {scores.get('n')}. "
            f"python -m finetune evaluate run={folder.root} scores them anew."
        )
    if "intervals" in entry:
        intervals = {
            field: Interval(scores[field], *entry["intervals"][field]) for field in entry["intervals"]
        }
    else:
        report = options.report
        intervals = bootstrap(metric, rows, resamples=report.resamples, seconds=report.interval_seconds)
    about: dict[str, Cell] = {"data": entry.get("dataset"), "examples": len(rows)}
    if command := entry.get("command"):
        about["command"] = " ".join(command)
    return ScoredSet(
        title=title,
        about={key: value for key, value in about.items() if value is not None},
        rows=rows,
        scores=scores,
        intervals=intervals,
        images=folder.thumbnails / file.stem,
        baseline=entry.get("baseline", {}),
        published=list(options.published.values()),
        comparable=list(_find_comparable(options)),
    )


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file that a run wrote.

    Raises:
        UserError: a line is not one.
    """
    rows = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{file} line {number}: not the JSON that the run wrote ({error})."
                ) from error
            if not isinstance(row, dict):
                raise UserError(f"{file} line {number}: expected a JSON object, as the run wrote.")
            rows.append(row)
    return rows


def _find_comparable(options: RunConfig) -> Iterator[PublishedScore]:
    """Yield the published scores of the run's generation of PaliGemma and resolution."""
    name = re.search(r"paligemma(2?)-(\d+)b-[a-z-]+(\d{3})", options.model.path)
    if name is None:
        return
    model = f"PaliGemma {'2 ' if name[1] else ''}{name[2]}B"
    for one in options.published.values():
        if one.model == model and one.resolution == int(name[3]):
            yield one


def _write_headline(scored: ScoredSet, main: str) -> str:
    if main not in scored.scores:
        return f"{len(scored.rows):,} examples"
    interval = scored.intervals.get(main)
    known = f" (95 % interval {interval.low:.4g} to {interval.high:.4g})" if interval else ""
    return f"{main} {scored.scores[main]:.4g}{known} on {len(scored.rows):,} examples"


def _describe_run(
    options: RunConfig, metrics: Mapping[str, Any], environment: Mapping[str, Any]
) -> dict[str, Cell]:
    devices = ", ".join(environment.get("gpus", [])) or f"CPU, {environment.get('cpus')} cores"
    versions = environment.get("packages", {})
    about: dict[str, Cell] = {
        "model": options.model.path,
        "method": options.peft.method.value,
        "result": metrics.get("result", {}).get("why"),
        "device": devices if environment else None,
        "software": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
        "command": " ".join(environment.get("command", [])) or None,
    }
    return {name: value for name, value in about.items() if value is not None}


_OF_TRAINING = {
    "steps": "steps",
    "loss": "mean loss",
    "examples_per_second": "examples per second",
    "seconds": "seconds",
    "peak_memory_gib": "peak memory, GiB",
}


def _describe_training(metrics: Mapping[str, Any]) -> dict[str, Cell]:
    train = metrics.get("train", {})
    return {text: train[name] for name, text in _OF_TRAINING.items() if name in train}


def _list_parameters(parameters: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    if not parameters:
        return []
    head = list(next(iter(parameters.values())))
    rows = [[tower, *(counts.get(name) for name in head)] for tower, counts in parameters.items()]
    return [Table("Parameters", ["tower", *head], rows)]
