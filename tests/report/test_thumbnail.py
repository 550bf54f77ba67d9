"""Thumbnails: small, whole, of every mode of image."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.report.thumbnail import place_side_by_side, read_thumbnail, thumbnail, write_thumbnail
from tests.conftest import noise_image


def decode(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == f"data:image/{(image.format or '').lower()};base64"
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_an_image_of_a_page(mode: str) -> None:
    assert decode(thumbnail(Image.new(mode, (10, 20)))).size == (10, 20)


def test_the_longer_side_is_limited_and_the_shape_kept() -> None:
    image = noise(2000, 500)
    assert decode(thumbnail(image, side=400)).size == (400, 100)
    assert image.size == (2000, 500)


def test_a_copy_that_is_too_large_is_made_smaller() -> None:
    uri = thumbnail(noise(900, 900), side=900, most_bytes=20_000)
    assert len(base64.b64decode(uri.partition(",")[2])) <= 20_000


def test_flat_images_are_exact() -> None:
    flat = Image.new("RGB", (64, 64), (12, 200, 7))
    assert decode(thumbnail(flat)).convert("RGB").getpixel((5, 5)) == (12, 200, 7)


def test_a_line_of_pixels_stays_an_image() -> None:
    assert decode(thumbnail(noise(5000, 1), side=100)).size == (100, 1)


def test_several_images_stand_side_by_side() -> None:
    page = place_side_by_side([noise_image(0, 30, 20), noise_image(1, 10, 40)])
    assert page.size == (40, 40)
    assert page.getpixel((5, 30)) == (255, 255, 255)


@pytest.mark.parametrize(
    "image", [noise_image(0, 300, 200), Image.new("RGB", (20, 20))], ids=["jpeg", "png"]
)
def test_a_thumbnail_in_a_file_is_the_one_of_a_page(tmp_path: Path, image: Image.Image) -> None:
    write_thumbnail(image, tmp_path / "000001")
    assert read_thumbnail(tmp_path / "000001") == thumbnail(image)
    assert read_thumbnail(tmp_path / "000002") == ""
