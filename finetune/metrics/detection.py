"""Detection: average precision and recall of boxes or masks, by COCO's own evaluator."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from finetune.codecs.objects import ObjectReader
from finetune.errors import UserError, describe
from finetune.metrics.fields import check_choices, name_row, read_box, read_number, read_objects
from finetune.metrics.mask import check_sizes, empty_mask, read_mask
from finetune.metrics.metric import Compared
from finetune.option import OneOf, option

FIELDS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")

_ANY_AREA = (0.0, 1e10)
_AREAS = {"ap_small": (0.0, 32.0**2), "ap_medium": (32.0**2, 96.0**2), "ap_large": (96.0**2, 1e10)}
"""Pixels, both ends included, as in COCOeval."""


class DetectionScore(StrEnum):
    """What orders the predicted boxes."""

    confidence = "confidence"
    constant = "constant"
    rank = "rank"


class Region(StrEnum):
    """What is compared."""

    box = "box"
    mask = "mask"


def compute_average_precision(
    rows: Sequence[Mapping[str, object]],
    *,
    score: DetectionScore = DetectionScore.confidence,
    region: Region = Region.box,
) -> dict[str, float]:
    """Compute COCO's average precision and recall over a set of images.

    Labels are compared as they are. A label that no ground truth of the set has is left out, so predicting
    it costs nothing, as in COCO's evaluation. Of predictions with the same score those of the earlier
    image come first (ids that are whole numbers by value, then the others as text), and within an image
    those predicted earlier: the order of the rows does not matter as long as their ids differ.

    Args:
        rows: one an image, with `objects` and `prediction_objects`. An object without `iscrowd` is not
            a crowd; one without `area`, in pixels, has that of the region compared.
        score: `confidence` is the predicted object's own `score`, or the row's `confidence` where it has
            none; `constant` gives all the same; `rank` puts the first object of every image before the
            second of any.
        region: `box` compares `box_xyxy`; `mask` compares `mask_rle`, and a predicted object without one
            is a false positive.

    Returns:
        `ap` (IoU 0.50 to 0.95), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar_1`, `ar_10` and
        `ar_100`, each 0 to 1, or -1 where the set has no such object.

    Raises:
        UserError: a row lacks what is needed.

    Source: pycocotools COCOeval.
    """
    truths: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for image, row in enumerate(sorted(rows, key=_order), 1):
        true = _read_truths(row, region)
        truths += [{**obj, "image_id": image} for obj in true]
        predicted = _read_predictions(row, true, region, score)
        predictions += [{**obj, "image_id": image} for obj in predicted]
    if not truths:
        return dict.fromkeys(FIELDS, -1.0)
    if not predictions:
        return _score_nothing(truths)
    labels = sorted({obj["label"] for obj in truths})
    # The evaluator prints its progress to standard output, which is for the scores alone.
    with redirect_stdout(io.StringIO()):
        evaluator = COCOeval(
            _build_dataset(len(rows), labels, truths),
            _build_dataset(len(rows), labels, predictions),
            "bbox" if region == Region.box else "segm",
        )
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {field: float(value) for field, value in zip(FIELDS, evaluator.stats, strict=False)}


def _score_nothing(truths: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the evaluator's scores of no predictions: 0, or -1 where there is no object to detect.

    The evaluator takes ten seconds for COCO's validation split, whose rows are scored so before training.
    """
    areas = [obj["area"] for obj in truths if not obj["iscrowd"]]
    fields = {}
    for name in FIELDS:
        low, high = _AREAS.get(name, _ANY_AREA)
        fields[name] = 0.0 if any(low <= area <= high for area in areas) else -1.0
    return fields


def _order(row: Mapping[str, object]) -> tuple[bool, int, str]:
    row_id = row.get("id")
    name = row_id if isinstance(row_id, str) else describe(row_id)
    number = name.isascii() and name.isdigit() and len(name) < 20
    return (not number, int(name) if number else 0, name)


def _build_dataset(images: int, labels: Sequence[str], annotations: Sequence[dict[str, Any]]) -> Any:
    categories = {label: number for number, label in enumerate(labels, 1)}
    known = [obj for obj in annotations if obj["label"] in categories]
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": image, "height": 0, "width": 0} for image in range(1, images + 1)],
        "categories": [{"id": number, "name": label} for label, number in categories.items()],
        # From 1: the evaluator takes a match with annotation 0 for no match.
        "annotations": [
            {**obj, "id": number, "category_id": categories[obj["label"]]}
            for number, obj in enumerate(known, 1)
        ],
    }
    dataset.createIndex()
    return dataset


def _read_truths(row: Mapping[str, object], region: Region) -> list[dict[str, Any]]:
    truths = []
    for obj in read_objects(row, "objects"):
        truth = _read_region(row, obj, region)
        if region == Region.mask and "segmentation" not in truth:
            raise UserError(f"{name_row(row)}: metric.region=mask needs a `mask_rle` in every object.")
        area = obj.get("area")
        if area is not None:
            truth["area"] = read_number(row, "area", area)
            if truth["area"] < 0:
                raise UserError(
                    f"{name_row(row)}: expected `area` to be 0 or more, but got {describe(area)}."
                )
        crowd = obj.get("iscrowd")
        if crowd not in (None, 0, 1):
            raise UserError(f"{name_row(row)}: expected `iscrowd` to be 0 or 1, but got {describe(crowd)}.")
        truths.append({**truth, "iscrowd": int(bool(crowd))})
    return truths


def _read_predictions(
    row: Mapping[str, object], truths: Sequence[dict[str, Any]], region: Region, score: DetectionScore
) -> list[dict[str, Any]]:
    objects = read_objects(row, "prediction_objects")
    regions = [_read_region(row, obj, region) for obj in objects]
    if region == Region.mask:
        masks = [obj["segmentation"] for obj in [*truths, *regions] if "segmentation" in obj]
        check_sizes(row, masks)
        # Where the row has no mask at all there is nothing to compare, and any size will do.
        nothing = empty_mask(masks[0]["size"] if masks else (1, 1))
        regions = [{"segmentation": nothing, **obj} for obj in regions]
    return [
        {**prediction, "iscrowd": 0, "score": _read_score(row, obj, place, score)}
        for place, (obj, prediction) in enumerate(zip(objects, regions, strict=True))
    ]


def _read_region(row: Mapping[str, object], obj: Mapping[str, object], region: Region) -> dict[str, Any]:
    """Return label, area and region in the evaluator's words; no region where the mask is missing."""
    label = obj.get("label")
    if not isinstance(label, str):
        raise UserError(
            f"{name_row(row)}: expected every object to have a `label`, a string, but one has "
            f"{describe(label)}."
        )
    if region == Region.mask:
        mask = read_mask(row, obj)
        if mask is None:
            return {"label": label, "area": 0.0}
        return {"label": label, "area": float(coco_mask.area(mask)), "segmentation": mask}
    x0, y0, x1, y1 = read_box(row, obj)
    # A box whose corners are the wrong way round has no area, and matches nothing.
    width, height = max(0.0, x1 - x0), max(0.0, y1 - y0)
    return {"label": label, "area": width * height, "bbox": [x0, y0, width, height]}


def _read_score(
    row: Mapping[str, object], obj: Mapping[str, object], place: int, score: DetectionScore
) -> float:
    if score == DetectionScore.constant:
        return 1.0
    if score == DetectionScore.rank:
        return 1.0 / (1 + place)
    value = obj.get("score")
    value = row.get("confidence") if value is None else value
    if value is None:
        raise UserError(
            f"{name_row(row)}: metric.score=confidence needs a `score` in every predicted object or a "
            "`confidence` in the row, but found neither; metric.score=rank and metric.score=constant do "
            "without."
        )
    return read_number(row, "score", value)


@dataclass(frozen=True)
class DetectionOptions:
    """COCO's average precision and recall, 0 to 1, or -1 where the set has no object of the size.

    Apart from the metric, whose method `score` has the name of the option.
    """

    score: DetectionScore = DetectionScore.confidence
    """`confidence`: each object's `score`, or the row's `confidence`; `constant`: all the same; `rank`: the
    first object of each image before the second of any. Ties go by image, then by order."""
    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""
    region: Region = Region.box
    """`box` compares `box_xyxy`, `mask` compares `mask_rle`."""
    mask_vae: str | None = None
    """Weights of the mask codec, where masks are read from text: `published`, or a file."""

    def __post_init__(self) -> None:
        check_choices(self)

    def build(self) -> "Detection":
        """Return the metric."""
        return Detection(self)


@dataclass(frozen=True)
class Detection:
    """COCO's average precision and recall; one row is one image."""

    higher_is_better: ClassVar[Mapping[str, bool]] = dict.fromkeys(FIELDS, True)

    options: DetectionOptions = DetectionOptions()

    @property
    def compared(self) -> Compared:
        """Labels, and boxes or masks."""
        masks = self.options.region == Region.mask
        return Compared(boxes=not masks, masks=masks, labels=True)

    @property
    def reader(self) -> ObjectReader:
        """Reads boxes from text, and masks where there are weights for them."""
        return ObjectReader(self.options.divisor, self.options.mask_vae)

    def score(self, row: Mapping[str, object]) -> None:
        """Return None: only a set has an average precision."""
        region = self.options.region
        _read_predictions(row, _read_truths(row, region), region, self.options.score)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return the fields of `compute_average_precision`."""
        return compute_average_precision(rows, score=self.options.score, region=self.options.region)
