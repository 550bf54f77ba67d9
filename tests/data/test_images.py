import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.images import load_image, resolve_image
from finetune.errors import UserError


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("RGB" if mode in {"P", "RGBA", "LA"} else "L").convert(mode)
    image.save(tmp_path / "x.tiff")
    loaded = load_image(str(tmp_path / "x.tiff"), "row")
    assert (loaded.mode, loaded.size) == ("RGB", (8, 8))
    if mode not in {"1", "P"}:  # these store fewer shades
        assert np.abs(np.asarray(loaded)[..., 0].astype(int) - grey).max() <= 3


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert load_image(str(tmp_path / "x.png"), "row").getpixel((0, 0)) == (255, 255, 255)


def test_the_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "x.jpg", exif=exif)
    assert load_image(str(tmp_path / "x.jpg"), "row").size == (6, 8)


def test_bytes_and_file_give_the_same_picture(photo: Path) -> None:
    from_bytes = load_image({"bytes": photo.read_bytes(), "path": None}, "row")
    assert np.array_equal(np.asarray(from_bytes), np.asarray(load_image(str(photo), "row")))


def make_bomb(path: Path, side: int = 12_000) -> None:
    """A PNG of 144 megapixels in a few hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (side // 8 + 1)))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "no image"),
        ("empty", "is empty"),
        ("truncated", "cut short"),
        ("text", "is not a picture"),
        ("bomb", "12000 x 12000 pixels"),
        ("huge bomb", "too large"),
        ("folder", "cannot be decoded"),
    ],
)
def test_a_bad_picture_is_named_with_its_row_and_a_remedy(photo: Path, damage: str, message: str) -> None:
    whole = photo.read_bytes()
    match damage:
        case "missing":
            photo.unlink()
        case "empty":
            photo.write_bytes(b"")
        case "truncated":
            photo.write_bytes(whole[: len(whole) // 2])
        case "text":
            photo.write_text("not found")
        case "bomb":
            make_bomb(photo)
        case "huge bomb":
            make_bomb(photo, 20_000)
        case "folder":
            photo.unlink()
            photo.mkdir()
    with pytest.raises(UserError) as error:
        load_image(str(photo), "train example `7`")
    assert str(error.value).startswith("train example `7`: ")
    assert message in str(error.value)
    assert photo.name in str(error.value)


def test_pictures_outside_the_folder_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    Image.new("RGB", (2, 2)).save(inside / "fine.png")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    assert resolve_image("fine.png", inside, "line 1") == str(inside / "fine.png")
    for name in ("../secret.png", "link.png", str(tmp_path / "secret.png")):
        with pytest.raises(UserError, match="lies outside"):
            resolve_image(name, inside, "line 1")


def test_a_missing_picture_says_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: no image `x.png` under .* pass dataset.image_dir="):
        resolve_image("x.png", tmp_path, "line 3")
