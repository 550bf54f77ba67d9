"""Score predictions of any model: rows in, one JSON object out.

`predictions=FILE` names a JSONL file as `evaluate` writes it, `predictions=-` reads a pipe. Every field of
the metric, the number of rows and the same by group go to standard output, messages to standard error.
AP and AR are -1 where the set has no object of that size. Rows stay on disk and are read one at a time.

Where a metric compares boxes or masks and a row has no `prediction_objects`, they are read from its
`prediction`; masks with the weights of `metric.mask_vae`.

Input of another kind is refused, or reported by a warning where it may be meant: boxes that are not corners
in pixels, labels in another case, another model's syntax, ids that repeat, answers that are all empty.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.assembly.custom import call_target
from finetune.codecs.coco_mask import MOST_PIXELS
from finetune.codecs.objects import ObjectReader
from finetune.config.jobs import Score
from finetune.errors import UserError
from finetune.jobs.result import ScoreResult
from finetune.metrics.detection import Detection
from finetune.metrics.doubts import Doubt, Level
from finetune.metrics.fields import list_keys, name_row, read_prediction, read_size
from finetune.metrics.jsonl import JsonlRows, Row
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.observe import Observer
from finetune.metrics.referring import Referring
from finetune.metrics.segmentation import Segmentation
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
        UserError: no file was named, a row lacks what the metric needs, or the rows cannot be meant.
    """
    metric: Metric = call_target(options.metric, "metric")
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
    """Score rows as they are in a file, with objects or text to read them from.

    Returns:
        The scores, as `compute_by_group` returns them, and what is doubtful in the rows.

    Raises:
        UserError: a row lacks what the metric needs.
    """
    if isinstance(metric, Detection | Referring | Segmentation):
        rows = DecodedRows(rows, _build_reader(metric), metric)
    observer = Observer(metric)
    scores = compute_by_group(metric, rows, observer.see)
    return scores, observer.conclude(rows, scores)


def _open_rows(source: str | None, rows: Iterable[Mapping[str, Any]] | None, spool: Path) -> JsonlRows:
    """Open a file, or spool a pipe or a program's rows into one: their number does not matter to memory."""
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


def _build_reader(metric: Detection | Referring | Segmentation) -> ObjectReader:
    reading = metric.reading if isinstance(metric, Segmentation) else "lenient"
    return ObjectReader(metric.divisor, _find_weights(metric), reading)


def _find_weights(metric: Detection | Referring | Segmentation) -> str | None:
    setting = getattr(metric, "mask_vae", None)
    if setting is None:
        return None
    from finetune.assembly.mask_codec import find_mask_vae  # torch: not for texts and boxes

    return str(find_mask_vae(setting))


class DecodedRows(Sequence[Any]):
    """Rows with the objects of their predicted text, where they bring none, or were read in another way.

    Args:
        rows: the rows; each is read anew, and may be changed.
        reader: reads the text.
        metric: compares the objects.
    """

    def __init__(
        self, rows: Sequence[Row], reader: ObjectReader, metric: Detection | Referring | Segmentation
    ) -> None:
        self.rows = rows
        self.reader = reader
        self.needs_masks = isinstance(metric, Segmentation) or getattr(metric, "region", "box") == "mask"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows[index]
        # Objects in the rows of an evaluation were read leniently, or not: the text shows what was written.
        is_official = self.reader.is_official and self.reader.mask_vae is not None
        if row.get("prediction_objects") is None or (is_official and "prediction" in row):
            row["prediction_objects"] = self._decode(row)
        return row

    def _decode(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = name_row(row)
        if row.get("prediction") is None:
            raise UserError(
                f"{name} has neither `prediction_objects` nor a `prediction` to read them from; it has: "
                f'{list_keys(row)}. Write a missing answer as "prediction_objects": [].'
            )
        text, size = read_prediction(row), read_size(row)
        if size is None:
            raise UserError(f"{name}: `height` and `width` in pixels are needed to read objects from text.")
        if self.needs_masks and size[0] * size[1] > MOST_PIXELS:
            raise UserError(f"{name}: masks are read for images of at most {MOST_PIXELS:,} pixels.")
        if self.needs_masks and self.reader.mask_vae is None and "<seg" in text:
            raise UserError(
                f"{name}: its masks are tokens, which metric.mask_vae= reads: `published`, or a file, such "
                "as the mask_vae.npz of a run's folder."
            )
        return self.reader.read(text, size)
