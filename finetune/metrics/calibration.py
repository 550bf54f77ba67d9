"""Whether confidence means anything: reliability, expected calibration error, accuracy against coverage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence."""

    count: int
    confidence: float
    """Mean confidence, 0 to 1."""
    accuracy: float
    """Mean credit, 0 to 1."""


@dataclass(frozen=True)
class Calibration:
    """How confidence and credit of a set of answers agree."""

    bins: list[Bin]
    """From the lowest confidence; bins of equal width, without those that are empty."""
    error: float
    """Expected calibration error, 0 to 1: the mean distance of the bins' accuracy from their confidence,
    weighted by their size."""
    coverage: list[float]
    """Shares of the answers that have at least some confidence, rising to 1; one for each confidence."""
    accuracy: list[float]
    """Mean credit of each of these shares."""


def calibrate(confidences: Sequence[float], credits: Sequence[float], bins: int = BINS) -> Calibration:
    """Compare confidences with what the answers were worth.

    Args:
        confidences: 0 to 1, at least one.
        credits: 0 for a wrong answer to 1 for a right one.
        bins: number of bins of equal width; a confidence at an edge belongs to the lower one.

    Source of the error: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    credit = np.asarray(credits, dtype=np.float64)
    places = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    found = [
        Bin(int(mask.sum()), float(confidence[mask].mean()), float(credit[mask].mean()))
        for mask in (places == place for place in range(bins))
        if mask.any()
    ]
    error = sum(one.count * abs(one.accuracy - one.confidence) for one in found) / len(confidence)
    order = np.argsort(-confidence, kind="stable")
    # Answers of equal confidence are kept or left out together.
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    return Calibration(
        bins=found,
        error=float(error),
        coverage=((ends + 1) / len(confidence)).tolist(),
        accuracy=(np.cumsum(credit[order])[ends] / (ends + 1)).tolist(),
    )
