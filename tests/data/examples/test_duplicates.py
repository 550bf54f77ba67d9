import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from finetune.data.examples.decoding import Decoded, Fingerprint, hash_outline
from finetune.data.examples.duplicates import Pair, find_pairs


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture with structure that no two seeds share."""
    cells = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def compress(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream).convert("RGB")


def decode(*images: Image.Image) -> dict[int, Decoded]:
    return {
        row: Decoded(row, None, (Fingerprint(image.size, image.tobytes(), hash_outline(image)),))
        for row, image in enumerate(images)
    }


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(compress, id="JPEG of low quality"),
        pytest.param(lambda image: image.resize((160, 100)), id="another size"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.85), id="darker"),
        pytest.param(lambda image: image.convert("L").convert("RGB"), id="without colors"),
    ],
)
def test_copies_that_look_alike_are_found_and_other_images_are_not(change: object) -> None:
    assert callable(change)
    train = decode(*map(photo, range(50)))
    copies = decode(photo(100), change(photo(7)), photo(101), change(photo(31)))
    assert find_pairs(copies, train) == [Pair(1, 7, is_same=False), Pair(3, 31, is_same=False)]


def test_the_same_pixels_are_the_same_image() -> None:
    train = decode(*map(photo, range(5)))
    assert find_pairs(decode(photo(9), photo(3)), train) == [Pair(1, 3, is_same=True)]


def test_flat_images_are_not_alike() -> None:
    flat = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "white")]
    assert find_pairs(decode(*flat[:2]), decode(flat[2], photo(1))) == []
    assert find_pairs({}, decode(photo(1))) == []
    assert find_pairs(decode(photo(1)), {0: Decoded(0, "broken", ())}) == []


def test_an_image_among_several_of_a_row_counts() -> None:
    [one, other] = [row.images[0] for row in decode(photo(1), photo(2)).values()]
    several = {4: Decoded(4, None, (other, one))}
    assert find_pairs(several, decode(photo(5), photo(1))) == [Pair(4, 1, is_same=True)]
