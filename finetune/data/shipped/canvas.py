"""Handwritten digits composed on a canvas, with exact boxes and masks."""

from collections.abc import Iterator

import numpy as np
from datasets import Features
from PIL import Image

from finetune.codecs.coco_mask import encode_rle
from finetune.data.images import encode_png
from finetune.data.objects import build_object, object_features
from finetune.data.options import Canvas
from finetune.data.reading.faults import Faults
from finetune.data.rows import PICTURE, Row, Splits, build_rows
from finetune.data.shipped.digits import TRAIN_EXAMPLES, enlarge_scan, load_scans
from finetune.example import SceneObject

INK = 64
"""Gray value, 0 to 255, from which a pixel belongs to a digit."""
FEATURES = Features({**object_features(), "image": PICTURE})


def load_canvases(options: Canvas) -> Splits:
    """Compose canvases; training and validation use different scans."""
    size, digits = options.size, options.digits
    built = [
        build_rows(compose, FEATURES, paths=(), split=split, count=count, size=size, digits=digits)
        for split, count in (("train", options.train), ("validation", options.validation))
    ]
    return Splits(built[0].rows, built[1].rows)


def compose(faults: Faults, split: str, count: int, size: int, digits: int) -> Iterator[Row]:
    """Yield canvases of `size` pixels a side, with one to `digits` digits that do not touch each other."""
    scans = load_scans()
    order = np.random.default_rng(0).permutation(len(scans.images))
    indices = order[:TRAIN_EXAMPLES] if split == "train" else order[TRAIN_EXAMPLES:]
    draw = np.random.default_rng((1, split == "train"))
    for number in range(count):
        canvas = np.zeros((size, size), np.uint8)
        objects: list[SceneObject] = []
        for index in draw.choice(indices, draw.integers(1, digits + 1)):
            ink = _scale(scans.images[index], int(draw.integers(size // 2, size * 5 // 8 + 1)))
            if (place := _find_place(canvas, ink.shape, draw)) is not None:
                objects.append(_stamp(canvas, ink, place, str(scans.target[index]), f"canvas {number}"))
        yield {
            "id": f"{split}-{number}",
            "group": None,
            "image": {"bytes": encode_png(Image.fromarray(canvas)), "path": None},
            "width": size,
            "height": size,
            "objects": objects,
        }


def _scale(scan: np.ndarray, height: int) -> np.ndarray:
    """Enlarge a scan of (8, 8) floats, 0 to 16, and crop it to its ink: uint8 gray."""
    gray = np.asarray(enlarge_scan(scan, height))
    rows, columns = np.nonzero(gray >= INK)
    return gray[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _find_place(
    canvas: np.ndarray, shape: tuple[int, ...], draw: np.random.Generator
) -> tuple[int, int] | None:
    """Return the top left corner of a free place, with a pixel to spare; None after ten tries."""
    height, width = shape
    for _ in range(10):
        top = int(draw.integers(0, canvas.shape[0] - height + 1))
        left = int(draw.integers(0, canvas.shape[1] - width + 1))
        around = canvas[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
        if not around.any():
            return top, left
    return None


def _stamp(
    canvas: np.ndarray, ink: np.ndarray, place: tuple[int, int], label: str, where: str
) -> SceneObject:
    """Draw a digit, and return it as an object."""
    top, left = place
    height, width = ink.shape
    canvas[top : top + height, left : left + width] = ink
    mask = np.zeros(canvas.shape, bool)
    mask[top : top + height, left : left + width] = ink >= INK
    box = (left, top, left + width, top + height)
    size = (canvas.shape[0], canvas.shape[1])
    return build_object(label, box, size, where, segmentation=encode_rle(mask))
