"""Rows of a metric of objects, with the objects of their predicted text where they bring none."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.codecs.rle import MOST_PIXELS
from finetune.errors import UserError
from finetune.example import SceneObject
from finetune.metrics.fields import list_keys, name_row, read_prediction, read_size
from finetune.metrics.jsonl import Row
from finetune.metrics.metric import Metric, ObjectMetric
from finetune.metrics.several import find_object_metric


def decode_rows(metric: Metric, rows: Sequence[Row]) -> Sequence[Row]:
    """Return rows with the objects that a metric compares; as they are where it compares texts.

    Args:
        metric: the metric.
        rows: each is read anew whenever it is asked for, and may be changed.

    Raises:
        UserError: the weights that read masks cannot be read.
    """
    compares = find_object_metric(metric)
    return rows if compares is None else _DecodedRows(rows, compares)


class _DecodedRows(Sequence[Any]):
    """Rows with the objects of their predicted text, where they bring none, or were read in another way."""

    def __init__(self, rows: Sequence[Row], metric: ObjectMetric) -> None:
        self.rows = rows
        self.reader = metric.reader
        self.needs_masks = metric.compared.masks
        if self.reader.mask_vae is not None:
            self.reader.load()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows[index]
        # The objects of an evaluation's rows may have been read leniently: only the text shows what was
        # written.
        reads_anew = self.reader.official and self.reader.mask_vae is not None and "prediction" in row
        if row.get("prediction_objects") is None or reads_anew:
            row["prediction_objects"] = self._decode(row)
        return row

    def _decode(self, row: Mapping[str, object]) -> list[SceneObject]:
        name = name_row(row)
        if row.get("prediction") is None:
            if {"prediction", "prediction_objects"} & set(row):  # null: an answer that is missing
                return []
            raise UserError(
                f"{name} has neither `prediction_objects` nor a `prediction` to read them from; it has: "
                f"{list_keys(row)}."
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
