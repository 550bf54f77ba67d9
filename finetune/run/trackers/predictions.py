"""The first predictions of an evaluation, drawn for a table."""

from typing import NamedTuple

from PIL import Image

from finetune.example import PredictionRow
from finetune.report.draw import draw_prediction
from finetune.run.results import Predictions

_SIDE = 512
"""Pixels of the longer side of an image in a table."""

COLUMNS = ("id", "image", "prompt", "prediction", "reference", "score", "confidence")


class Shown(NamedTuple):
    """A row of the table."""

    id: str
    image: Image.Image
    """RGB, with boxes and masks drawn where the row has them; the first one of several."""
    prompt: str
    prediction: str
    reference: str
    """Accepted answers, or the labels of the true objects."""
    score: float | None
    confidence: float | None


def show_predictions(predictions: Predictions, most: int) -> list[Shown]:
    """Return the first rows with their images.

    Args:
        predictions: the rows of the split and their images.
        most: number of rows.
    """
    rows = list(predictions.rows[:most])
    return [_show(row, predictions.load_image(index)) for index, row in enumerate(rows)]


def _show(row: PredictionRow, image: Image.Image) -> Shown:
    drawn = image.convert("RGB")
    if "prediction_objects" in row:
        objects: PredictionRow = {"prediction_objects": row["prediction_objects"]}
        objects["objects"] = row.get("objects") or []
        drawn = draw_prediction(image, objects)
    drawn.thumbnail((_SIDE, _SIDE))
    labels = [str(one.get("label") or "object") for one in row.get("objects") or ()]
    return Shown(
        str(row.get("id", "")),
        drawn,
        row.get("prefix", ""),
        row.get("prediction", ""),
        " | ".join(row.get("references") or labels),
        row.get("score"),
        row.get("confidence"),
    )
