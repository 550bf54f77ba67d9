"""scikit-learn's handwritten digits: 1,797 scans of 8 x 8 pixels, enlarged."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from PIL import Image

from finetune.data.images import encode_png
from finetune.data.rows import PICTURE, Splits, text_features

TRAIN_EXAMPLES = 1500
QUESTION = "which digit is this?"


class Scans(NamedTuple):
    """The digits as they were scanned."""

    images: np.ndarray
    """(1797, 8, 8) floats, 0 to 16."""
    target: np.ndarray
    """(1797,) int64: the digit of each."""


def load_scans() -> Scans:
    """Read the file that `sklearn.datasets.load_digits` reads, whose import takes 0.7 s with SciPy's."""
    package = find_spec("sklearn")
    assert package is not None, "a dependency"
    file = Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"  # type: ignore[index]
    table = np.loadtxt(file, delimiter=",")
    return Scans(table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64))


def load_digits(size: int) -> Splits:
    """Return 1,500 digits to train on and 297 to evaluate on, always the same.

    Args:
        size: side of the images, pixels.
    """
    scans = load_scans()
    order = np.random.default_rng(0).permutation(len(scans.images))
    features = text_features("question", lists=("answers",), image=PICTURE)
    rows = [
        {
            "id": f"digit-{index}",
            "group": str(scans.target[index]),
            "image": {"bytes": encode_png(enlarge_scan(scans.images[index], size)), "path": None},
            "question": QUESTION,
            "answers": [str(scans.target[index])],
        }
        for index in order
    ]
    split = [rows[:TRAIN_EXAMPLES], rows[TRAIN_EXAMPLES:]]
    return Splits(*(Dataset.from_list(part, features=features) for part in split))


def enlarge_scan(scan: np.ndarray, size: int) -> Image.Image:
    """Scale a scan of (8, 8) floats, 0 to 16, to a gray image of (size, size)."""
    pixels = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8))
    return pixels.resize((size, size), Image.Resampling.BICUBIC)
