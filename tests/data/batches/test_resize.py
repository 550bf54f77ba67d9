"""Images resized as big_vision does, against values that TensorFlow computed.

`resize_reference.npz` has the result for each of `CASES`, from TensorFlow 2.21 on a CPU:

    image = tf.io.decode_image(encode(name), channels=3, expand_animations=False)
    image = tf.image.resize(image, (side, side), method="bilinear", antialias=antialias)
    expected[f"{name}-{side}-{antialias}"] = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
    numpy.savez_compressed("resize_reference.npz", **expected)
"""

import pkgutil
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data import releases
from finetune.data.batches.resize import ALIASED, resize_as_paper
from finetune.data.images import Picture

TURNED = Image.Exif()
TURNED[0x0112] = 6

SIZES = {"noise": (37, 53), "small": (9, 14), "slope": (240, 321), "flat": (97, 61), "line": (1, 90)}
CASES = [
    *((name, side, antialias) for name in SIZES for side in (24, 40) for antialias in (True, False)),
    *((name, 24, True) for name in ("rgba", "la", "palette", "grey", "grey16", "exif", "gif")),
]


def draw(name: str) -> np.ndarray:
    """Return (height, width, 3) uint8, from integers alone."""
    height, width = SIZES.get(name, (30, 43))
    y, x, channel = np.mgrid[:height, :width, :3]
    if name == "flat":
        return np.full((height, width, 3), (200, 255, 3), dtype=np.uint8)
    if name == "slope":
        return ((3 * y + 2 * x + 50 * channel) // 4 % 256).astype(np.uint8)
    mixed = (y * 7919 + x * 104729 + channel * 1299709 + 17) % 65521
    return (mixed * mixed // 64 % 256).astype(np.uint8)


def encode(name: str) -> bytes:
    """Return an image as the bytes of a file without loss."""
    pixels = draw(name)
    image, grey, buffer = Image.fromarray(pixels), pixels[..., :1], BytesIO()
    if name == "rgba":
        image = Image.fromarray(np.concatenate([pixels, grey], axis=2))
    elif name == "la":
        image = Image.fromarray(np.concatenate([grey, pixels[..., 1:2]], axis=2))
    elif name == "grey":
        image = Image.fromarray(grey[..., 0])
    elif name == "grey16":
        # Also of the twelve bits that many cameras write TensorFlow takes the high byte.
        image = Image.fromarray(grey[..., 0].astype(np.uint16) * 16 + 15)
    elif name in {"palette", "gif"}:
        image = Image.fromarray(grey[..., 0] // 16)
        image.putpalette([value * 11 % 256 for value in range(768)])
        image.info["transparency"] = 3 if name == "gif" else bytes(range(0, 240, 15))
    image.save(buffer, "GIF" if name == "gif" else "PNG", exif=TURNED if name == "exif" else None)
    return buffer.getvalue()


@cache
def read_reference() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name("resize_reference.npz")) as file:
        return dict(file)


@pytest.mark.parametrize(("name", "side", "antialias"), CASES)
def test_an_image_is_read_and_resized_as_tensorflow_does(name: str, side: int, antialias: bool) -> None:
    expected = read_reference()[f"{name}-{side}-{antialias}"]
    image = Picture({"bytes": encode(name)}, "").load(as_stored=True)
    found = np.asarray(resize_as_paper(image, (side, side), antialias))
    assert np.array_equal(found, expected)


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = Image.fromarray(draw("noise"))
    assert resize_as_paper(image, (37, 53), antialias=True) is image


def test_what_is_not_antialiased_are_releases_and_splits() -> None:
    assert set(ALIASED) <= {module.name for module in pkgutil.iter_modules(releases.__path__)}
    assert {split for splits in ALIASED.values() for split in splits} == {"train", "validation"}
