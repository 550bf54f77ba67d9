"""Which predicted object is which true one: for tables of classes and for the calibration of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.metrics.fields import read_box, read_objects
from finetune.metrics.referring import box_iou

OVERLAP = 0.5
"""Least intersection over union of two boxes that stand for the same object."""


@dataclass(frozen=True)
class Matches:
    """The objects of a row. Crowd regions, and what is predicted on them, are left out."""

    found: list[tuple[str, str]]
    """Labels of each true object and of the predicted one at its place."""
    missed: list[str]
    """Labels of true objects without a prediction."""
    invented: list[str]
    """Labels of predicted objects without a true one."""
    scored: list[tuple[float, bool]]
    """Score of each predicted object that has one, and whether a true one of its label is at its place."""

    @property
    def f1(self) -> float:
        """F1 of place and label, 0 to 1; 1 where there is nothing and nothing was predicted."""
        right = sum(true == predicted for true, predicted in self.found)
        objects = 2 * len(self.found) + len(self.missed) + len(self.invented)
        return 2 * right / objects if objects else 1.0


def match_objects(row: Mapping[str, object]) -> Matches:
    """Pair the objects of a row by their boxes, whatever their labels, those that overlap most first.

    Args:
        row: with `objects` and `prediction_objects`.

    Raises:
        UserError: it has not both, or a box is not four numbers.
    """
    everything = read_objects(row, "objects")
    truths = [one for one in everything if not one.get("iscrowd")]
    crowds = [read_box(row, one) for one in everything if one.get("iscrowd")]
    predictions = read_objects(row, "prediction_objects")
    boxes = [read_box(row, one) for one in predictions]
    pairs = _pair_by_overlap(row, truths, predictions)
    of_prediction = {predicted: true for true, predicted in pairs}
    kept = [
        index
        for index, box in enumerate(boxes)
        if index in of_prediction or all(box_iou(box, crowd) < OVERLAP for crowd in crowds)
    ]
    return Matches(
        found=[(_label(truths[true]), _label(predictions[predicted])) for true, predicted in pairs],
        missed=[_label(one) for index, one in enumerate(truths) if index not in of_prediction.values()],
        invented=[_label(predictions[index]) for index in kept if index not in of_prediction],
        scored=[
            (score, index in of_prediction and _same(truths[of_prediction[index]], predictions[index]))
            for index in kept
            if isinstance(score := predictions[index].get("score"), float | int)
        ],
    )


def _pair_by_overlap(
    row: Mapping[str, object],
    truths: Sequence[Mapping[str, object]],
    predictions: Sequence[Mapping[str, object]],
) -> list[tuple[int, int]]:
    """Return the indices of a true and a predicted object at one place; of equal overlaps, equal labels."""
    candidates = [
        (-overlap, not _same(one, other), true, predicted)
        for true, one in enumerate(truths)
        for predicted, other in enumerate(predictions)
        if (overlap := box_iou(read_box(row, one), read_box(row, other))) >= OVERLAP
    ]
    pairs: dict[int, int] = {}
    for _, _, true, predicted in sorted(candidates):
        if true not in pairs and predicted not in pairs.values():
            pairs[true] = predicted
    return sorted(pairs.items())


def _same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return _label(one) == _label(other)


def _label(one: Mapping[str, object]) -> str:
    return str(one.get("label") or "")
