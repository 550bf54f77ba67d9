"""Referring segmentation: one phrase, one mask (RefCOCO)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pycocotools import mask as coco_mask

from finetune.codecs.boxes import read_official
from finetune.codecs.objects import ObjectReader
from finetune.errors import UserError
from finetune.example import Rle
from finetune.metrics.fields import check_choices, name_row, read_box, read_objects
from finetune.metrics.mask import check_sizes, mask_overlap, read_mask
from finetune.metrics.metric import Compared
from finetune.option import OneOf, option

THRESHOLDS = (50, 60, 70, 80, 90)


def compute_mask_scores(overlaps: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Score the masks of a set.

    Args:
        overlaps: for each expression the pixels that the two masks share, and those in either.

    Returns:
        `mean_iou`, the mean of the expressions' IoU; `cumulative_iou`, all shared pixels over all pixels in
        either, in which large objects weigh more; and `precision_50` to `precision_90`, the share with at
        least that IoU. In percent; an IoU of two empty masks is 0.

    Source: LAVT (yz93/LAVT-RIS test.py), which calls the cumulative one overall IoU.
    """
    ious = [shared / either if either else 0.0 for shared, either in overlaps]
    pixels = sum(either for _, either in overlaps)
    percent = 100.0 / len(overlaps)
    return {
        "mean_iou": percent * sum(ious),
        "cumulative_iou": 100.0 * sum(shared for shared, _ in overlaps) / pixels if pixels else 0.0,
        **{f"precision_{mark}": percent * sum(iou >= mark / 100 for iou in ious) for mark in THRESHOLDS},
    }


class SegmentationReading(StrEnum):
    """Readings of an answer with a mask."""

    lenient = "lenient"
    official = "official"


@dataclass(frozen=True)
class Segmentation:
    """Mean and cumulative IoU of masks, and the share above each threshold, in percent.

    A row is one expression. Where it has several objects, or several are predicted, their masks are
    united; a prediction without a mask is an empty one. Under `official` only the first object that is
    predicted counts, and only where `prediction`, if the row has it, begins with a box and a mask.

    Source: `official`: big_vision evaluators/proj/paligemma/transfers/segmentation.py.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "mean_iou": True,
        "cumulative_iou": True,
        **{f"precision_{mark}": True for mark in THRESHOLDS},
    }

    compared: ClassVar[Compared] = Compared(boxes=False, masks=True, labels=False)

    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""
    mask_vae: str | None = None
    """Weights of the mask codec, where masks are read from text: `published`, or a file."""
    reading: SegmentationReading = SegmentationReading.lenient
    """`lenient` unites the masks of all objects that can be read, and puts exchanged corners right.
    `official` is big_vision's: the answer must begin with one box and its mask, minima before maxima, and
    nothing after it counts."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def reader(self) -> ObjectReader:
        """Reads masks from text."""
        official = self.reading == SegmentationReading.official
        return ObjectReader(self.divisor, self.mask_vae, official)

    def score(self, row: Mapping[str, object]) -> float:
        """Return the row's IoU, 0 to 100."""
        shared, either = self._overlap(row)
        return 100.0 * shared / either if either else 0.0

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return the fields of `compute_mask_scores`."""
        return compute_mask_scores([self._overlap(row) for row in rows])

    def _overlap(self, row: Mapping[str, object]) -> tuple[int, int]:
        predicted = read_objects(row, "prediction_objects")
        if self.reading == SegmentationReading.official:
            predicted = _keep_official(row, predicted)
        return _row_overlap(row, predicted)


def _keep_official(
    row: Mapping[str, object], predicted: list[Mapping[str, object]]
) -> list[Mapping[str, object]]:
    """Return the one object that counts, or none where big_vision calls the answer invalid."""
    text = row.get("prediction")
    first = predicted[:1]
    if not isinstance(text, str):
        boxes = [read_box(row, obj) for obj in first if obj.get("box_xyxy") is not None]
        return [] if any(box[2] <= box[0] or box[3] <= box[1] for box in boxes) else first
    if read_official(text) is None:
        return []
    if not first or first[0].get("mask_rle") is None:
        raise UserError(
            f"{name_row(row)}: its `prediction` has a mask that `prediction_objects` lacks. To read it "
            "as metric.reading=official does, pass metric.mask_vae=published, or a run's mask_vae.npz."
        )
    return first


def _row_overlap(row: Mapping[str, object], predicted: Sequence[Mapping[str, object]]) -> tuple[int, int]:
    objects = read_objects(row, "objects")
    truths = [mask for obj in objects if (mask := read_mask(row, obj)) is not None]
    if not objects or len(truths) < len(objects):
        raise UserError(
            f"{name_row(row)}: expected `objects` to have at least one object and each a `mask_rle`, but "
            f"{len(truths)} of {len(objects)} have one."
        )
    masks = [mask for obj in predicted if (mask := read_mask(row, obj))]
    check_sizes(row, [*truths, *masks])
    truth: Rle = coco_mask.merge(truths)
    if not masks:
        return 0, int(coco_mask.area(truth))
    return mask_overlap(truth, coco_mask.merge(masks))
