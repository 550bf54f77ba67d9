"""Score anybody's predictions: rows in, one JSON object out.

`predictions=FILE` names a JSONL file as `evaluate` writes it, `predictions=-` reads a pipe. Every field of
the metric, the number of rows and the same by group go to standard output, messages to standard error.
Rows stay on disk and are read one at a time.

Where a metric compares boxes or masks and a row has no `prediction_objects`, they are read from its
`prediction`; masks with the weights of `metric.mask_vae`.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.codecs.objects import ObjectReader
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.jobs.target import call_target
from finetune.metrics.detection import Detection
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.referring import Referring
from finetune.metrics.rows import JsonlRows, Row
from finetune.metrics.segmentation import Segmentation
from finetune.run.folder import Launch


def run(config: RunConfig, launch: Launch) -> None:
    """Print the scores.

    Raises:
        UserError: no file was named, or a row lacks what the metric needs.
    """
    if config.predictions is None:
        raise UserError("Which predictions? predictions=FILE.jsonl, or predictions=- for a pipe.")
    metric: Metric = call_target(config.metric, "metric")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(config.predictions)
        if config.predictions == "-":
            file = Path(folder) / "predictions.jsonl"
            with file.open("wb") as spooled:
                shutil.copyfileobj(sys.stdin.buffer, spooled)
        rows = JsonlRows(file)
        try:
            scored: Sequence[Row] = rows
            if isinstance(metric, Detection | Referring | Segmentation):
                scored = DecodedRows(rows, _build_reader(metric))
            print(json.dumps(compute_by_group(metric, scored)))
        finally:
            rows.close()


def _build_reader(metric: Detection | Referring | Segmentation) -> ObjectReader:
    reading = metric.reading if isinstance(metric, Segmentation) else "lenient"
    return ObjectReader(metric.divisor, _find_weights(metric), reading)


def _find_weights(metric: Detection | Referring | Segmentation) -> str | None:
    setting = getattr(metric, "mask_vae", None)
    if setting is None:
        return None
    from finetune.jobs.mask_codec import find_mask_vae  # torch: not for texts and boxes

    return str(find_mask_vae(setting))


class DecodedRows(Sequence[Any]):
    """Rows with the objects of their predicted text, where they bring none, or were read in another way.

    Args:
        rows: the rows.
        reader: reads them.
    """

    def __init__(self, rows: Sequence[Row], reader: ObjectReader) -> None:
        self.rows = rows
        self.reader = reader

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows[index]
        # Objects in the rows of an evaluation were read leniently, or not: the text shows what was written.
        reads_again = self.reader.is_official and self.reader.mask_vae is not None and "prediction" in row
        if "prediction_objects" in row and not reads_again:
            return row
        return {**row, "prediction_objects": self._decode(row)}

    def _decode(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = f"Row `{row.get('id')}`"
        if not isinstance(row.get("prediction"), str):
            raise UserError(
                f"{name} has neither `prediction_objects` nor a `prediction` to read them from."
            )
        height, width = row.get("height"), row.get("width")
        if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
            raise UserError(f"{name}: `height` and `width` in pixels are needed to read objects from text.")
        return self.reader.read(row["prediction"], (height, width))
