"""Which layout and unit boxes are in, where those of predictions and ground truth do not agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune.metrics.referring import box_iou

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Sample = Sequence[tuple[Sequence[Box], Sequence[Box], Size | None]]
"""For each row the true and the predicted boxes, pixels, and the image's height and width."""

_FITS = 0.5
"""Mean IoU from which another layout is believed, where it is twice that of the boxes as they are."""


@dataclass(frozen=True)
class Layout:
    """A layout in which the boxes of one side fit the other's."""

    name: str
    key: str
    """The side that is in this layout: `objects` or `prediction_objects`."""
    overlap: float
    """Mean over the true boxes of the IoU with the nearest predicted one, 0 to 1."""
    overlap_as_given: float
    """The same with the boxes as they are."""


def _scale(box: Box, size: Size | None, unit: float) -> Box | None:
    if size is None:
        return None
    x, y = size[1] / unit, size[0] / unit
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _swap(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]


_LAYOUTS: dict[str, Callable[[Box, Size | None], Box | None]] = {
    "x, y, width, height": lambda box, size: (box[0], box[1], box[0] + box[2], box[1] + box[3]),
    "centre x, centre y, width, height": lambda box, size: (
        box[0] - box[2] / 2,
        box[1] - box[3] / 2,
        box[0] + box[2] / 2,
        box[1] + box[3] / 2,
    ),
    "y_min, x_min, y_max, x_max": lambda box, size: _swap(box),
    "shares of width and height": lambda box, size: _scale(box, size, 1),
    "percent of width and height": lambda box, size: _scale(box, size, 100),
    "thousandths of width and height": lambda box, size: _scale(box, size, 1000),
    "thousandths, y before x": lambda box, size: _scale(_swap(box), size, 1000),
    "bins of 1,024, y before x": lambda box, size: _scale(_swap(box), size, 1024),
}


def find_layout(sample: Sample) -> Layout | None:
    """Return the layout of one side under which the boxes fit much better, or None.

    Args:
        sample: rows with boxes on both sides.
    """
    as_given = _overlap(sample, "", None)
    best: Layout | None = None
    if not sample or as_given >= _FITS:
        return None
    for key in ("prediction_objects", "objects"):
        for name, convert in _LAYOUTS.items():
            overlap = _overlap(sample, key, convert)
            if overlap > max(_FITS, 2 * as_given, best.overlap if best else 0.0):
                best = Layout(name, key, overlap, as_given)
    return best


def _overlap(sample: Sample, key: str, convert: Callable[[Box, Size | None], Box | None] | None) -> float:
    """Return the mean over the true boxes of the IoU with the nearest predicted one."""
    ious: list[float] = []
    for true, predicted, size in sample:
        sides = {"objects": list(true), "prediction_objects": list(predicted)}
        if convert is not None:
            converted = [convert(box, size) for box in sides[key]]
            sides[key] = [box for box in converted if box is not None]
        ious += [
            max((box_iou(one, other) for other in sides["prediction_objects"]), default=0.0)
            for one in sides["objects"]
        ]
    return sum(ious) / len(ious) if ious else 0.0
