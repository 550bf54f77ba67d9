"""Referring expressions: one phrase, one box (RefCOCO)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from finetune.codecs.objects import ObjectReader
from finetune.errors import UserError
from finetune.metrics.fields import check_choices, name_row, read_box, read_objects
from finetune.metrics.metric import Compared
from finetune.option import OneOf, option

Box = Sequence[float]


def box_iou(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes, in float64.

    Args:
        one: x_min, y_min, x_max, y_max, in any unit.
        other: the same, in the same unit.

    Returns:
        0 to 1; 0 where neither box has an area. A box whose corners are the wrong way round has none.
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    either = _area(one) + _area(other) - shared
    return shared / either if either > 0 else 0.0


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


@dataclass(frozen=True)
class Referring:
    """Share of expressions whose box overlaps the true one by 0.5 and 0.75, and mean IoU, in percent.

    Each row has one object and, at first place, one predicted box; further ones are not looked at. An
    answer without a box is unreadable: wrong, with an IoU of 0.

    Source: big_vision evaluators/proj/paligemma/transfers/segmentation.py (`boxacc`, `>=`).
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "accuracy_50": True,
        "accuracy_75": True,
        "mean_iou": True,
        "unreadable": False,
    }

    compared: ClassVar[Compared] = Compared(boxes=True, masks=False, labels=False)

    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def reader(self) -> ObjectReader:
        """Reads boxes from text."""
        return ObjectReader(self.divisor)

    def score(self, row: Mapping[str, object]) -> float:
        """Return the row's IoU, 0 to 100."""
        return 100.0 * _row_iou(row)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `accuracy_50`, `accuracy_75`, `mean_iou` and `unreadable`."""
        ious = [_row_iou(row) for row in rows]
        percent = 100.0 / len(rows)
        return {
            "accuracy_50": percent * sum(iou >= 0.5 for iou in ious),
            "accuracy_75": percent * sum(iou >= 0.75 for iou in ious),
            "mean_iou": percent * sum(ious),
            "unreadable": percent * sum(not row["prediction_objects"] for row in rows),
        }


def _row_iou(row: Mapping[str, object]) -> float:
    objects = read_objects(row, "objects")
    if len(objects) != 1:
        raise UserError(
            f"{name_row(row)}: an expression refers to one object, but `objects` has {len(objects)}."
        )
    predicted = read_objects(row, "prediction_objects")
    truth = read_box(row, objects[0])
    return box_iou(truth, read_box(row, predicted[0])) if predicted else 0.0
