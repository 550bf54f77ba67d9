"""What a report says of one evaluated set: scores, tables, plots, and predictions to look at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.metrics.bootstrap import Interval, bootstrap
from finetune.metrics.calibration import Calibration, calibrate
from finetune.metrics.confusion import Confusion, confuse_answers, confuse_labels
from finetune.metrics.detection import Detection
from finetune.metrics.doubts import Level
from finetune.metrics.matching import match_objects
from finetune.metrics.metric import Metric
from finetune.metrics.observe import find_doubts
from finetune.metrics.several import metrics_of
from finetune.metrics.worth import choose_rows, find_credits, order_rows
from finetune.report.content import Cell, Examples, Plot, SetReport, Shown, Table
from finetune.report.options import PublishedScore
from finetune.report.run_plots import plot_confusion, plot_coverage, plot_reliability
from finetune.report.thumbnail import read_thumbnail

Row = Mapping[str, Any]

_MOST_GROUPS = 40
_MOST_ANSWERS = 30
"""Different true answers of which a table of confusions can still be read."""
_MOST_TEXT = 400
"""Characters of a prompt or an answer."""


@dataclass(frozen=True)
class ScoredSet:
    """One evaluated set, as a run's folder has it."""

    title: str
    about: Mapping[str, Cell]
    rows: Sequence[Row]
    scores: Mapping[str, Any]
    intervals: Mapping[str, Interval]
    images: Path
    """Folder of the drawn images."""
    baseline: Mapping[str, Any] = field(default_factory=dict)
    """The same examples with gray images, as `metrics.json` has it; empty if it was not measured."""
    published: Sequence[PublishedScore] = ()
    comparable: Sequence[PublishedScore] = ()
    """Those of the run's kind of model and resolution."""


def describe_set(scored: ScoredSet, metric: Metric, examples: int) -> SetReport:
    """Return what a report says of a set.

    Args:
        scored: the set.
        metric: the metric that it was scored with.
        examples: most predictions to show of each kind.
    """
    rows = scored.rows
    fields = [name for name in metric.higher_is_better if name in scored.scores]
    doubts = find_doubts(metric, rows, scored.scores)
    notes = [doubt.text for doubt in doubts if doubt.level != Level.note]
    tables = _compare_groups(scored, metric, fields)
    plots: list[Plot] = []
    objects = [part for part in metrics_of(metric) if isinstance(part, Detection)]
    if objects:
        tables.append(_list_classes(objects[0], rows))
    confusion = _confuse(rows, with_labels=bool(objects))
    if confusion is not None:
        plots += _plot_confusion(confusion)
        tables += _list_mistakes(confusion)
    if (calibration := _calibrate(metric, rows)) is not None:
        bins = [(one.confidence, one.accuracy, one.count) for one in calibration.bins]
        plots.append(plot_reliability(bins, calibration.error))
        plots.append(plot_coverage(calibration.coverage, calibration.accuracy))
    baseline = _describe_baseline(scored.baseline, metric)
    return SetReport(
        title=scored.title,
        about={**scored.about, **_describe_answers(scored.scores, calibration)},
        notes=[*baseline, *notes, *_note_unfinished(scored.scores)],
        scores=_list_scores(scored, fields),
        tables=[*_list_published(scored.published), *tables],
        plots=plots,
        examples=_show_examples(scored, metric, examples),
    )


def _describe_answers(scores: Mapping[str, Any], calibration: Calibration | None) -> dict[str, Cell]:
    names = {"confidence": "mean confidence", "loss": "loss", "unfinished": "unfinished answers, %"}
    about: dict[str, Cell] = {text: scores[name] for name, text in names.items() if name in scores}
    if calibration is not None:
        about["expected calibration error"] = calibration.error
    return about


def _list_scores(scored: ScoredSet, fields: Sequence[str]) -> Table:
    gray = scored.baseline.get("scores", {})
    published = {one.field: one for one in scored.comparable if one.group is None}
    head = ["score", "value", "95 % interval"]
    head += ["gray images"] if gray else []
    head += ["published"] if published else []
    rows: list[list[Cell]] = []
    for name in fields:
        row: list[Cell] = [name, _known(scored.scores[name]), _format_interval(scored.intervals.get(name))]
        row += [_known(gray.get(name))] if gray else []
        row += [published[name].value if name in published else None] if published else []
        rows.append(row)
    resamples = {one.resamples for one in scored.intervals.values()}
    note = ""
    if resamples:
        counts = " or ".join(f"{count:,}" for count in sorted(resamples))
        note = f"95 % intervals: percentile bootstrap, {counts} resamples."
    if gray:
        note += f" Gray images: {scored.baseline['n']:,} of the examples, answered without seeing them."
    return Table("Scores", head, rows, note.strip())


def _known(value: float | None) -> float | None:
    """Return a score in four decimals; None for the -1 of a set without any object of that size."""
    return None if value is None or value == -1 else round(value, 4)


def _format_interval(interval: Interval | None) -> str | None:
    return None if interval is None else f"{interval.low:.4g} to {interval.high:.4g}"


def _list_published(published: Sequence[PublishedScore]) -> list[Table]:
    if not published:
        return []
    rows: list[list[Cell]] = [
        [
            one.field + (f", {one.group}" if one.group else ""),
            one.value,
            f"{one.model}, {one.resolution} pixels",
            one.split,
            one.source,
        ]
        for one in published
    ]
    return [Table("Published scores", ["score", "value", "model", "on", "source"], rows)]


def _describe_baseline(baseline: Mapping[str, Any], metric: Metric) -> list[str]:
    """Return a warning where gray images do as well, or why they were not tried."""
    if skipped := baseline.get("skipped"):
        return [f"Gray images were not tried: {skipped}"]
    name, more_is_better = next(iter(metric.higher_is_better.items()), ("", True))
    if name not in baseline.get("difference", {}):
        return []
    _, low, high = baseline["difference"][name]
    gain = low if more_is_better else -high
    if gain > 0:
        return []
    return [
        f"The model may ignore its images: on {baseline['n']:,} examples, {name} is "
        f"{baseline['with_images'][name]:.4g} with their images and {baseline['scores'][name]:.4g} with "
        f"gray ones. The 95 % interval of the difference, {low:.4g} to {high:.4g}, does not exclude 0."
    ]


def _note_unfinished(scores: Mapping[str, Any]) -> list[str]:
    unfinished = scores.get("unfinished", 0)
    if not unfinished:
        return []
    return [f"{unfinished:.3g} % of the answers were cut at evaluation.max_new_tokens."]


def _compare_groups(scored: ScoredSet, metric: Metric, fields: Sequence[str]) -> list[Table]:
    groups: Mapping[str, Mapping[str, Any]] = scored.scores.get("by_group", {})
    if not groups:
        return []
    members: dict[str, list[Row]] = {}
    for row in scored.rows:
        members.setdefault(str(row.get("group")), []).append(row)
    shown = sorted(groups, key=lambda name: -groups[name]["n"])[:_MOST_GROUPS]
    rows: list[list[Cell]] = []
    for name in sorted(shown):
        # Without a limit of time only means have an interval, which is computed at once.
        interval = bootstrap(metric, members.get(name, []), seconds=0).get(fields[0]) if fields else None
        rows.append([name, groups[name]["n"], *[groups[name].get(one) for one in fields]])
        rows[-1].append(_format_interval(interval))
    head = ["group", "n", *fields, f"95 % interval of {fields[0]}" if fields else ""]
    note = f"The {_MOST_GROUPS} largest of {len(groups):,} groups." if len(groups) > len(shown) else ""
    return [Table("By group", head, rows, note)]


def _list_classes(metric: Detection, rows: Sequence[Row]) -> Table:
    by_label = metric.compute_by_label(rows)
    cells = [
        [name, scores["objects"], scores["predicted"], scores["ap"], scores["ap50"]]
        for name, scores in by_label.items()
    ]
    return Table("By class", ["class", "objects", "predicted", "ap", "ap50"], cells)


def _confuse(rows: Sequence[Row], with_labels: bool) -> Confusion | None:
    """Return what is taken for what; None if answers are seldom alike, such as captions."""
    if with_labels:
        return confuse_labels(match_objects(row) for row in rows)
    if not all(isinstance(row.get("prediction"), str) and row.get("references") for row in rows):
        return None
    confusion = confuse_answers(rows, _MOST_ANSWERS // 2)
    different = len({row["references"][0] for row in rows})
    return confusion if different * 2 <= len(rows) and len(rows) > 1 else None


def _plot_confusion(confusion: Confusion) -> list[Plot]:
    if not 2 <= len(confusion.truths) <= _MOST_ANSWERS:
        return []
    caption = "What is taken for what: numbers are counts, the color is the share of the row."
    return [plot_confusion(confusion.truths, confusion.predictions, confusion.counts, caption)]


def _list_mistakes(confusion: Confusion, most: int = 10) -> list[Table]:
    if not confusion.mistakes:
        return []
    rows: list[list[Cell]] = [
        [_cut(true, 80), _cut(predicted, 80), count] for true, predicted, count in confusion.mistakes[:most]
    ]
    return [Table("Most frequent mistakes", ["true", "predicted", "count"], rows)]


def _calibrate(metric: Metric, rows: Sequence[Row]) -> Calibration | None:
    """Return the calibration of the answers, or that of the objects where only objects have a score."""
    credits = find_credits(metric, rows)
    confidences = [row.get("confidence") for row in rows]
    if credits is not None and None not in confidences:
        return calibrate([float(one) for one in confidences if one is not None], credits)
    if not all("objects" in row and "prediction_objects" in row for row in rows):
        return None
    scored = [one for row in rows for one in match_objects(row).scored]
    return (
        calibrate([score for score, _ in scored], [float(right) for _, right in scored]) if scored else None
    )


def choose_examples(metric: Metric, rows: Sequence[Row], count: int) -> dict[str, list[int]]:
    """Return the indices of the rows that a report shows: `worst`, `random` and `best`."""
    confidences = [float(row.get("confidence", 0.0)) for row in rows]
    return choose_rows(order_rows(metric, rows), confidences, count)


def _show_examples(scored: ScoredSet, metric: Metric, count: int) -> list[Examples]:
    worth = order_rows(metric, scored.rows)
    has_objects = any("prediction_objects" in row for row in scored.rows)
    legend = " Colored: predicted. Dashed, labels on white: annotated." if has_objects else ""
    prompts = {row.get("prefix") for row in scored.rows}
    prompt = f" Prompt: {_cut(str(*prompts))}" if len(prompts) == 1 else ""
    by_worth = f"By {worth.name}; of equal ones, the most confident."
    notes = {"worst": by_worth, "random": "", "best": by_worth}
    return [
        Examples(
            f"{kind.capitalize()} predictions",
            f"{notes[kind]}{legend}{prompt}".strip(),
            [
                _show(scored.rows[index], scored.images / f"{index:06d}", with_prompt=not prompt)
                for index in indices
            ],
        )
        for kind, indices in choose_examples(metric, scored.rows, count).items()
        if indices
    ]


def _show(row: Row, image: Path, with_prompt: bool) -> Shown:
    details: dict[str, Cell] = {"prompt": _cut(row.get("prefix", ""))} if with_prompt else {}
    if row.get("prediction_objects"):
        details["predicted"] = _name_objects(row["prediction_objects"])
    else:
        details["answer"] = _cut(row.get("prediction", "")) or "(empty)"
    if references := row.get("references"):
        details["reference"] = _cut(" | ".join(dict.fromkeys(references)))
    elif "objects" in row:
        details["annotated"] = _name_objects(row["objects"])
    if "score" in row:
        details["score"] = float(row["score"])
    if "confidence" in row:
        details["confidence"] = float(row["confidence"])
    return Shown(str(row.get("id", "")), read_thumbnail(image), details)


def _name_objects(objects: Sequence[Mapping[str, Any]]) -> str:
    names = [str(one.get("label") or "(no label)") for one in objects]
    counts = Counter(names)
    listed = (f"{count} x {name}" if count > 1 else name for name, count in counts.items())
    return _cut(", ".join(listed)) or "(nothing)"


def _cut(text: str, most: int = _MOST_TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
