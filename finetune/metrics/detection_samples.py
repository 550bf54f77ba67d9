"""Average precision of many samples of the same images: objects are matched once, and only counted anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_DETECTIONS = (1, 10, 100)
"""Most predictions of an image and class that count, as in COCOeval."""
_SIZES = ("", "_small", "_medium", "_large")


@dataclass(frozen=True)
class _Cell:
    """One class and range of areas over all images, predictions in the order of their scores."""

    truths: np.ndarray
    """(images,) int: annotated objects that count."""
    image: np.ndarray
    """(predictions,) int: the image of each."""
    rank: np.ndarray
    """(predictions,) int: its place within its image, from 0."""
    right: np.ndarray
    """(thresholds, predictions) bool: it has a true object with this overlap."""
    wrong: np.ndarray
    """(thresholds, predictions) bool: it has none, and counts."""


class Samples:
    """Scores samples of images, of which some may occur repeatedly.

    Args:
        evaluator: COCOeval, evaluated but not accumulated.
        images: number of images.
    """

    def __init__(self, evaluator: Any, images: int) -> None:
        parameters = evaluator.params
        self._recalls = np.asarray(parameters.recThrs)
        results = np.empty(len(evaluator.evalImgs), dtype=object)
        results[:] = evaluator.evalImgs
        self._cells = [
            [_read_cell(area) for area in of_class]
            for of_class in results.reshape(len(parameters.catIds), len(parameters.areaRng), images)
        ]

    def __call__(self, weights: np.ndarray) -> dict[str, float]:
        """Return the fields of `compute_average_precision`, without those that have no object.

        Args:
            weights: (images,) int: how often each image is in the sample.
        """
        fields: dict[str, float] = {}
        for size, cells in zip(_SIZES, zip(*self._cells, strict=True), strict=True):
            counted = [(cell, total) for cell in cells if (total := int(cell.truths @ weights))]
            if not counted:
                continue
            precision = np.mean([self._precision(cell, weights, total) for cell, total in counted], axis=0)
            fields[f"ap{size}"] = float(precision.mean())
            if not size:
                fields |= {"ap50": float(precision[0]), "ap75": float(precision[5])}
                for most in _DETECTIONS:
                    recall = [_recall(cell, weights, total, most) for cell, total in counted]
                    fields[f"ar_{most}"] = float(np.mean(recall))
        return fields

    def _precision(self, cell: _Cell, weights: np.ndarray, total: int) -> np.ndarray:
        """Return the interpolated precision for each threshold of overlap, as COCOeval accumulates it.

        An image that is drawn twice counts twice at one place. Between the two the precision is no higher
        than after them, so that its envelope, and with it the result, is the same.
        """
        weight = weights[cell.image]
        right = np.cumsum(cell.right * weight, axis=1)
        wrong = np.cumsum(cell.wrong * weight, axis=1)
        precision = right / (wrong + right + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # The fewest objects to find for each recall, by the same division as the recall itself.
        needed = np.floor(self._recalls * total).astype(np.int64)
        needed += needed / total < self._recalls
        # All thresholds are searched at once: each in numbers of its own.
        thresholds, width = right.shape
        apart = np.arange(thresholds)[:, None] * (total + 2)
        found = np.searchsorted((right + apart).ravel(), needed + apart)
        places = found - np.arange(thresholds)[:, None] * width
        # Beyond the highest recall the precision is 0.
        padded = np.pad(envelope, ((0, 0), (0, 1)))
        return np.take_along_axis(padded, np.minimum(places, width), axis=1).mean(axis=1)


def _recall(cell: _Cell, weights: np.ndarray, total: int, most: int) -> float:
    """Return the recall over all thresholds of overlap."""
    weight = weights[cell.image] * (cell.rank < most)
    return float((cell.right @ weight).mean() / total)


def _read_cell(results: Sequence[Any]) -> _Cell:
    """Put the results of all images for one class and range of areas together."""
    known = [(index, result) for index, result in enumerate(results) if result is not None]
    truths = np.zeros(len(results), dtype=np.int64)
    for index, result in known:
        truths[index] = np.count_nonzero(np.asarray(result["gtIgnore"]) == 0)
    counts = [len(result["dtScores"]) for _, result in known]
    scores = np.concatenate([np.zeros(0), *(np.asarray(result["dtScores"]) for _, result in known)])
    order = np.argsort(-scores, kind="mergesort")
    image = np.repeat(np.array([index for index, _ in known], dtype=np.int64), counts)[order]
    rank = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(count) for count in counts)])[order]
    thresholds = 10
    empty = np.zeros((thresholds, 0), dtype=bool)
    matched = np.concatenate([empty, *(np.asarray(one["dtMatches"]) != 0 for _, one in known)], axis=1)
    ignored = np.concatenate([empty, *(np.asarray(one["dtIgnore"]) != 0 for _, one in known)], axis=1)
    matched, ignored = matched[:, order], ignored[:, order]
    return _Cell(truths, image, rank, matched & ~ignored, ~matched & ~ignored)
