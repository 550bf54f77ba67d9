"""scikit-learn's handwritten digits: 1,797 scans of 8 x 8 pixels, enlarged."""

import numpy as np
from datasets import Dataset, Features, List, Value
from PIL import Image
from sklearn.datasets import load_digits as load_scans

from finetune.data.images import encode_png
from finetune.data.rows import PICTURE, Splits

TRAIN_EXAMPLES = 1500
QUESTION = "which digit is this?"


def load_digits(size: int) -> Splits:
    """Return 1,500 digits to train on and 297 to evaluate on, always the same.

    Args:
        size: side of the images, pixels.
    """
    scans = load_scans()
    order = np.random.default_rng(0).permutation(len(scans.images))
    text = Value("string")
    features = Features(
        {
            "id": text,
            "group": text,
            "image": PICTURE,
            "question": text,
            "answers": List(Value("string")),
        }
    )
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
