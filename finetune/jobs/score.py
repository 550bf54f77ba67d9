"""Score predictions of any model: prediction rows in, one JSON object out.

`predictions=FILE` has prediction rows as `evaluate` writes them, one a line or as a JSON list, or COCO's
results; `predictions=-` reads a pipe. `ground_truth=FILE` names what they are compared with, if that is in
a file of its own: COCO's annotations, or rows that have the same `id`. Every field of the metric, the
number of rows and the same by group go to standard output, messages to standard error. AP and AR are -1
where the set has no object of that size. Rows stay on disk and are read one at a time.

A prediction that is null, or missing for a row of the ground truth, is scored as an empty answer.

If a metric compares boxes or masks and a row has no `prediction_objects`, they are read from its
`prediction`; masks with the weights of `metric.mask_vae`.

Other input is refused, or reported by a warning if it may be intended: boxes that are not corners in
pixels, labels in another case, another model's syntax, duplicate ids, only empty answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune.assembly.custom import build_metric
from finetune.assembly.predictions import PredictionFiles
from finetune.config.jobs import Score
from finetune.errors import UserError
from finetune.metrics.decoded import decode_rows
from finetune.metrics.doubts import Doubt, Level
from finetune.metrics.jsonl import JsonlRows, Row
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.observe import Observer
from finetune.result import ScoreResult
from finetune.run.folder import Launch


def run(
    options: Score, launch: Launch, predictions: Iterable[Mapping[str, Any]] | None = None
) -> ScoreResult:
    """Score predictions.

    Args:
        options: name the metric and, without `predictions`, the file.
        launch: how the job was started.
        predictions: rows in place of a file.

    Raises:
        UserError: no file was named, a row lacks a field of the metric, or the rows are surely mistaken.
    """
    metric = build_metric(options)
    with PredictionFiles() as files:
        scores, doubts = score_rows(metric, _open_rows(options, predictions, files))
    mistakes = [doubt.text for doubt in doubts if doubt.level == Level.mistake]
    if mistakes:
        first, *more = mistakes
        raise UserError("\n".join([f"{first[0].upper()}{first[1:]}", *more]))
    return ScoreResult(scores, doubts)


def score_rows(metric: Metric, rows: Sequence[Row]) -> tuple[dict[str, Any], list[Doubt]]:
    """Score rows that have objects, or text to read them from.

    Returns:
        The scores, as `compute_by_group` returns them, and doubts about the rows.

    Raises:
        UserError: a row lacks a field that the metric needs.
    """
    rows = decode_rows(metric, rows)
    observer = Observer(metric)
    scores = compute_by_group(metric, rows, observer.see)
    return scores, observer.conclude(rows, scores)


def _open_rows(
    options: Score, rows: Iterable[Mapping[str, Any]] | None, files: PredictionFiles
) -> JsonlRows:
    if rows is None:
        if options.predictions is None:
            raise UserError("Which predictions? predictions=FILE, or predictions=- for a pipe.")
        return files.open(options.predictions, options.ground_truth)
    try:
        return files.spool(rows, "predictions")
    except (TypeError, ValueError) as error:
        raise UserError(f"predictions: expected rows as JSON has them ({error}).") from error
