import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.images import Picture, resolve_image
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
    loaded = Picture(str(tmp_path / "x.tiff"), "row").load()
    assert (loaded.mode, loaded.size) == ("RGB", (8, 8))
    if mode not in {"1", "P"}:  # these store fewer shades
        assert np.abs(np.asarray(loaded)[..., 0].astype(int) - grey).max() <= 3


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        pytest.param(np.array([[0, 65535]], np.uint16), [0, 255], id="16 bits"),
        pytest.param(np.array([[0, 32768, 40000]], np.uint16), [0, 128, 156], id="half of 16 bits"),
        pytest.param(np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255], id="12 bits"),
        pytest.param(np.array([[0, 512, 1023]], np.uint16), [0, 128, 255], id="10 bits"),
        pytest.param(np.array([[0, 128, 255]], np.uint16), [0, 128, 255], id="8 bits in 16"),
        pytest.param(np.array([[0, 128, 255]], np.int32), [0, 128, 255], id="8 bits in 32"),
        pytest.param(np.array([[0, 32768, 65535]], np.int32), [0, 128, 255], id="16 bits in 32"),
        pytest.param(np.array([[0, 0.5, 1]], np.float32), [0, 128, 255], id="floats of 0 to 1"),
        pytest.param(np.array([[0, 128, 255]], np.float32), [0, 128, 255], id="floats of 0 to 255"),
        pytest.param(np.array([[0, 0]], np.float32), [0, 0], id="black"),
    ],
)
def test_greys_of_more_than_8_bits_are_scaled(
    tmp_path: Path, pixels: np.ndarray, expected: list[int]
) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    assert np.asarray(Picture(str(tmp_path / "x.tiff"), "row").load())[0, :, 0].tolist() == expected
    assert Picture(str(tmp_path / "x.tiff"), "row").size() == (1, len(expected))


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.array([[-1, 1]], np.float32), id="negative"),
        pytest.param(np.array([[0, np.nan]], np.float32), id="not a number"),
        pytest.param(np.array([[0, np.inf]], np.float32), id="infinite"),
        pytest.param(np.array([[0, 300]], np.float32), id="floats above 255"),
        pytest.param(np.array([[0, 65536]], np.int32), id="more than 16 bits"),
        pytest.param(np.array([[-5, 100]], np.int32), id="negative whole numbers"),
    ],
)
def test_greys_without_a_known_scale_are_refused_before_training(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    picture = Picture(str(tmp_path / "x.tiff"), "row")
    for read in (picture.load, picture.size):
        with pytest.raises(UserError, match=r"row: image .*gray values from .* Convert it to 8 bits"):
            read()


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert Picture(str(tmp_path / "x.png"), "row").load().getpixel((0, 0)) == (255, 255, 255)


def test_the_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "x.jpg", exif=exif)
    assert Picture(str(tmp_path / "x.jpg"), "row").load().size == (6, 8)


def test_bytes_and_file_give_the_same_picture(photo: Path) -> None:
    from_bytes = Picture({"bytes": photo.read_bytes(), "path": None}, "row").load()
    assert np.array_equal(np.asarray(from_bytes), np.asarray(Picture(str(photo), "row").load()))


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
        ("text", "is not an image"),
        ("bomb", "12000 x 12000 pixels"),
        ("huge bomb", "too large"),
        ("folder", "cannot be decoded"),
        ("pipe", "cannot be decoded"),
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
        case "pipe":
            photo.unlink()
            os.mkfifo(photo)
    picture = Picture(str(photo), "train example `7`")
    for read in (picture.load, picture.size):
        with pytest.raises(UserError) as error:
            read()
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
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "link.png").symlink_to(tmp_path / "secret.txt")
    for name in (
        "../secret.png",
        "link.png",
        *(str(tmp_path / f"{name}") for name in ("secret.txt", "link.png")),
    ):
        with pytest.raises(UserError, match="is outside"):
            resolve_image(name, inside, "line 1")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("{here}/shelf/a.png", id="absolute"),
        pytest.param("file://{here}/shelf/a.png", id="address of a file"),
        pytest.param("shelf\\a.png", id="of Windows"),
        pytest.param("/home/somebody/shelf/a.png", id="of another machine"),
        pytest.param("C:\\data\\shelf\\a.png", id="of another machine with Windows"),
    ],
)
def test_pictures_are_found_by_the_names_that_other_machines_give_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "shelf").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "shelf/a.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = resolve_image(name.format(here=tmp_path), [elsewhere, tmp_path], "line 1")
    assert found == str(tmp_path / "shelf/a.png")


def test_an_address_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Nothing is fetched"):
        resolve_image("https://example.com/a.png", tmp_path, "line 1")


def test_a_missing_picture_says_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: no image `x.png` under .* pass dataset.image_dir="):
        resolve_image("x.png", tmp_path, "line 3")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_what_stands_behind_a_whole_picture_does_not_matter(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"x.{ending}"
    Image.new("RGB", (6, 8)).save(file)
    assert Picture(str(file), "row").size() == (8, 6)
    file.write_bytes(file.read_bytes() + b"more")
    assert Picture(str(file), "row").size() == (8, 6)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_that_is_cut_short_is_noticed_with_its_size(tmp_path: Path, ending: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    file = tmp_path / f"x.{ending}"
    Image.fromarray(pixels).save(file)
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"row: image .*It may be cut short: copy it again"):
        Picture(str(file), "row").size()


def test_a_path_of_a_row_that_becomes_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    picture = tmp_path / "inside/x.png"
    Image.new("RGB", (2, 2)).save(picture)
    Picture(str(picture), "row").check_link()
    Picture({"bytes": None, "path": str(picture)}, "row").check_link()
    Picture({"bytes": b"", "path": "/nowhere/x.png"}, "row").check_link()
    picture.rename(tmp_path / "y.png")
    picture.symlink_to(tmp_path / "y.png")
    for source in (str(picture), {"bytes": None, "path": str(picture)}):
        with pytest.raises(UserError, match=r"row: image .*x\.png` has become a link to .*y\.png"):
            Picture(source, "row").check_link()


def test_an_image_is_identified_by_its_path_or_its_bytes_without_being_read(photo: Path) -> None:
    content = photo.read_bytes()
    inside = Picture({"bytes": content, "path": "x.png"}, "row 1")
    assert Picture({"bytes": None, "path": str(photo)}, "row 1").key == str(photo)
    assert Picture(str(photo), "row 1").key == Picture(str(photo), "row 2").key
    assert inside.key == Picture({"bytes": content, "path": None}, "row 2").key
    assert inside.key != Picture({"bytes": content + b"x", "path": "x.png"}, "row 1").key
    assert Picture({"bytes": b"no image", "path": None}, "row").key


def test_bytes_of_another_kind_are_named_with_their_row() -> None:
    with pytest.raises(UserError, match="row 3: expected the bytes of an image, got 'text'"):
        Picture({"bytes": "text", "path": None}, "row 3").size()
