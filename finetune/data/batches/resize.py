"""Images as big_vision resizes them: bilinear in float32, clipped and truncated to bytes.

The converted checkpoints' processors resize bicubically and round; the published transfers were trained and
scored on these pixels instead, antialiased for some of the benchmarks and not for others.

Source: TensorFlow's kernels `scale_and_translate_op.cc` (antialiased) and `resize_bilinear_op.cc` (not),
which `tf.image.resize` calls; big_vision `pp/ops_image.py` for the way back to bytes.
"""

import numpy as np
from PIL import Image

_IN_BOTH = ("coco_captions", "gqa", "nlvr2", "nocaps", "pope", "refcoco", "scienceqa", "textcaps")
ALIASED = {
    **dict.fromkeys(_IN_BOTH, ("train", "validation")),
    **dict.fromkeys(("ai2d", "rsvqa", "vizwiz"), ("validation",)),
}
"""Release -> the splits whose images big_vision resizes without antialiasing.

Source: big_vision `configs/proj/paligemma/transfers/`.
"""


def is_antialiased(release: str | None, split: str) -> bool:
    """Return whether big_vision resizes the images of a split with antialiasing; of unknown data it does.

    Args:
        release: name of the benchmark; None for other data.
        split: `train` or `validation`.
    """
    return split not in ALIASED.get(release or "", ())


def resize_as_paper(image: Image.Image, size: tuple[int, int], antialias: bool) -> Image.Image:
    """Resize as big_vision does; the ratio of the sides is not kept.

    The order of the operations is TensorFlow's, so that the result is the same bit for bit: truncation
    makes another byte of 199.99998 than of 200.

    Args:
        image: RGB.
        size: height and width of the result, pixels.
        antialias: widen the triangular kernel by the scale where the image becomes smaller.

    Returns:
        RGB; values are truncated, not rounded.
    """
    pixels = np.asarray(image)
    if pixels.shape[:2] == size:
        return image
    if antialias:
        values = _antialias(_antialias(pixels, size[0], axis=0), size[1], axis=1)
    else:
        values = _interpolate(_interpolate(pixels, size[1], axis=1), size[0], axis=0)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _interpolate(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Return (..., length, ...) float32, each value between the two pixels next to it."""
    last = pixels.shape[axis] - 1
    scale = np.float32(last + 1) / np.float32(length)
    places = (np.arange(length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floors = np.floor(places)
    shares = _along(places - floors, axis)
    first = np.take(pixels, np.maximum(floors, 0).astype(int), axis).astype(np.float32)
    second = np.take(pixels, np.minimum(np.ceil(places), last).astype(int), axis).astype(np.float32)
    values: np.ndarray = first + (second - first) * shares
    return values


def _antialias(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Return (..., length, ...) float32, each value the weighted sum of the pixels under its triangle."""
    last, half = pixels.shape[axis] - 1, np.float32(0.5)
    scale = np.float32(1) / (np.float32(length) / np.float32(last + 1))
    radius = max(scale, np.float32(1))
    centers = (np.arange(length, dtype=np.float32) + half) * scale
    starts = np.clip(np.ceil(centers - radius - half), 0, last).astype(int)
    ends = np.clip(np.floor(centers + radius - half), 0, last).astype(int)
    places = starts[:, None] + np.arange((ends - starts).max() + 1)
    distances = np.abs((places.astype(np.float32) + half - centers[:, None]) * (np.float32(1) / radius))
    inside = places <= ends[:, None]
    weights = np.where(inside, np.maximum(np.float32(1) - distances, 0), np.float32(0))
    # One after the other, as TensorFlow does: numpy's sum adds in pairs.
    total = np.add.accumulate(weights, axis=1)[:, -1:]
    weights = weights * (np.float32(1) / total)
    places = np.minimum(places, last)
    values = np.zeros((1, 1, 1), dtype=np.float32)
    for place, weight in zip(places.T, weights.T, strict=True):
        values = values + np.take(pixels, place, axis).astype(np.float32) * _along(weight, axis)
    return values


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """Return values of (N,) as an array of three axes, to be multiplied along one of them."""
    return values.reshape([-1 if number == axis else 1 for number in range(3)])
