"""Score predictions of any model: prediction rows in, one JSON object out.

`predictions=FILE` names a JSONL file as `evaluate` writes it, `predictions=-` reads a pipe. Every field of
the metric, the number of rows and the same by group go to standard output, messages to standard error.
AP and AR are -1 where the set has no object of that size. Rows stay on disk and are read one at a time.

If a metric compares boxes or masks and a row has no `prediction_objects`, they are read from its
`prediction`; masks with the weights of `metric.mask_vae`.

Other input is refused, or reported by a warning if it may be intended: boxes that are not corners in
pixels, labels in another case, another model's syntax, duplicate ids, only empty answers.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.assembly.custom import build_metric
from finetune.config.jobs import Score
from finetune.errors import UserError
from finetune.metrics.decoded import decode_rows
from finetune.metrics.doubts import Doubt, Level
from finetune.metrics.jsonl import JsonlRows, Row
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.observe import Observer
from finetune.result import ScoreResult
from finetune.run.files import write_jsonl
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
    with tempfile.TemporaryDirectory() as folder:
        rows = _open_rows(options.predictions, predictions, Path(folder) / "predictions.jsonl")
        try:
            scores, doubts = score_rows(metric, rows)
        finally:
            rows.close()
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


def _open_rows(source: str | None, rows: Iterable[Mapping[str, Any]] | None, spool: Path) -> JsonlRows:
    """Open a file, or spool a pipe or a program's rows into one, so that memory does not grow with them."""
    if rows is not None:
        try:
            write_jsonl(spool, rows)
        except (TypeError, ValueError) as error:
            raise UserError(f"predictions: expected rows as JSON has them ({error}).") from error
        return JsonlRows(spool, "predictions")
    if source is None:
        raise UserError("Which predictions? predictions=FILE.jsonl, or predictions=- for a pipe.")
    if source != "-":
        return JsonlRows(Path(source))
    with spool.open("wb") as spooled:
        shutil.copyfileobj(sys.stdin.buffer, spooled)
    return JsonlRows(spool, "standard input")
