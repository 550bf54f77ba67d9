"""The boxes and masks of a prediction row as arrays, and as `supervision.Detections`."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.codecs.rle import decode_rle
from finetune.errors import UserError

if TYPE_CHECKING:
    from supervision import Detections


def decode_row_masks(row: Mapping[str, Any]) -> np.ndarray | None:
    """Return the masks of a row's objects: (N, height, width) bool; None if no object has one.

    Args:
        row: a prediction row; an object without a mask gets an empty one where others have one.
    """
    objects = row.get("prediction_objects") or []
    if not any(obj.get("mask_rle") for obj in objects):
        return None
    size = (row["height"], row["width"])
    masks = [obj.get("mask_rle") for obj in objects]
    return np.stack([decode_rle(mask, size) if mask else np.zeros(size, bool) for mask in masks])


def to_supervision(row: Mapping[str, Any], classes: list[str]) -> "Detections":
    """Return the boxes and masks of a row as detections.

    Args:
        row: a prediction row; without objects there are no detections.
        classes: their places are the `class_id`; a class that is not among them is appended.

    Returns:
        `xyxy` in pixels of the image, `class_id`, `confidence`, `mask` (N, height, width) bool where there
        are masks, and `data["class_name"]`.

    Raises:
        UserError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Without OpenCV it says so once; nothing here needs it.
            warnings.filterwarnings("ignore", "OpenCV", UserWarning)
            from supervision import Detections
    except ImportError as error:
        raise UserError(
            "Detections need the package supervision: pip install 'finetune-paligemma[supervision]'"
        ) from error
    objects = row.get("prediction_objects") or []
    if not objects:
        return Detections.empty()
    labels = [str(obj.get("label") or "") for obj in objects]
    classes += [label for label in dict.fromkeys(labels) if label not in classes]
    scores = [obj.get("score") for obj in objects]
    return Detections(
        xyxy=np.array([obj["box_xyxy"] for obj in objects], dtype=np.float32).reshape(-1, 4),
        mask=decode_row_masks(row),
        class_id=np.array([classes.index(label) for label in labels]),
        confidence=None if None in scores else np.array(scores, dtype=np.float32),
        data={"class_name": np.array(labels)},
    )
