"""From an image's file or bytes to an upright RGB image; the only place where images are decoded."""

import os
import stat
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from finetune.errors import UserError

PICTURE_SUFFIXES = frozenset(
    ".bmp .gif .jpe .jpeg .jpg .png .ppm .pgm .tif .tiff .webp .avif .heic".split()
)
"""Names of files that are pictures."""

MAX_PIXELS = 89_478_485
"""Larger pictures are refused before they are decoded: a small file can unfold to gigabytes."""

_LONGEST_NAME = 1024  # what is longer is no path: the system would refuse it less kindly
_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners write into 16."""
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
"""Format -> the last bytes of a whole file."""


class ImageError(UserError):
    """An image that cannot be used.

    Args:
        message: names the row.
        path: of the image, where it is a file: a row that was left out is read again once it changes.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        # As in `UserError`: a DataLoader worker puts its own traceback before the message.
        worker = message.startswith("Caught ImageError in")
        super().__init__(message.rpartition("ImageError: ")[2].strip() if worker else message)
        self.path = path


def load_image(source: str | Mapping[str, Any], where: str, as_stored: bool = False) -> Image.Image:
    """Decode one picture.

    Args:
        source: a path, or what `datasets` stores: `{"bytes": ..., "path": ...}`.
        where: the row, for the error message.
        as_stored: read it as TensorFlow's `decode_image` does: no EXIF rotation, and transparency is
            dropped, so that the colours under it show; a GIF's is black.

    Returns:
        RGB; by default with the EXIF rotation applied, and transparency lies on white.

    Raises:
        UserError: the file is missing, empty, cut short, too large or not a picture.
    """
    path, data, name = _split_source(source)
    try:
        with _open(path, data) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                _check_pixels(image)
                return convert_image(image, as_stored)
    except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
        raise _explain(error, path, data, where, name) from error


def convert_image(image: Image.Image, as_stored: bool = False) -> Image.Image:
    """Return an image that a program has opened as `load_image` returns one from a file.

    Raises:
        ValueError: its grey values have no known scale.
    """
    return _to_rgb_as_stored(image) if as_stored else _to_rgb(ImageOps.exif_transpose(image))


def read_size(source: str | Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return a picture's height and width as it stands upright, from its header alone.

    A picture that seems to be cut short, or whose values may not fit into 8 bits, is decoded to find out.

    Args:
        source: as in `load_image`.
        where: the row, for the error message.

    Raises:
        UserError: the file is empty, too large, cut short or not a picture.
    """
    path, data, name = _split_source(source)
    try:
        with _open(path, data) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                _check_pixels(image)
                width, height = image.size
                # Not a PNG's own `getexif`, which decodes the whole picture first.
                turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
                doubtful = image.mode[0] in "IF" or _seems_cut(stream, image.format or "")
    except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
        raise _explain(error, path, data, where, name) from error
    if doubtful:
        load_image(source, where)
    return (width, height) if turned else (height, width)


def _split_source(source: str | Mapping[str, Any]) -> tuple[str | None, bytes | None, str]:
    """Return path, bytes, and what to call the picture."""
    path = source if isinstance(source, str) else source.get("path")
    data = None if isinstance(source, str) else source.get("bytes")
    return path, data, f"image `{path}`" if path else "the image"


def _open(path: str | None, data: bytes | None) -> IO[bytes]:
    if data is not None:
        return BytesIO(data)
    if path is None:
        raise FileNotFoundError("it has neither bytes nor a path")
    if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would wait for ever
        raise ValueError("not a file")
    return Path(path).open("rb")


def _check_pixels(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}.")


def _seems_cut(stream: IO[bytes], kind: str) -> bool:
    """Return whether a file does not end as its format says; it may still be whole, with more behind."""
    size = stream.seek(0, os.SEEK_END)
    if kind == "WEBP":
        stream.seek(4)
        return int.from_bytes(stream.read(4), "little") + 8 > size
    end = _ENDS.get(kind, b"")
    stream.seek(max(0, size - len(end)))
    return stream.read() != end


def _explain(error: Exception, path: str | None, data: bytes | None, where: str, name: str) -> ImageError:
    subject = f"{where}: {name}"
    if isinstance(error, FileNotFoundError):
        text = f"{where}: no {name}; pass dataset.image_dir=FOLDER."
    elif isinstance(error, UnidentifiedImageError):
        empty = data == b"" or (data is None and Path(str(path)).stat().st_size == 0)
        what = "is empty (0 bytes)" if empty else "is not a picture that Pillow can read"
        text = f"{subject} {what}. Replace the file, or leave the row out."
    elif isinstance(error, Image.DecompressionBombError):
        text = f"{subject} is too large: {error} Make it smaller, or leave the row out."
    elif isinstance(error, _ScaleError):
        text = f"{subject} {error}"
    elif isinstance(error, OSError) and error.errno is not None:
        text = f"{subject} cannot be read ({error.strerror}). Check the name, the link and the permissions."
    else:
        text = f"{subject} cannot be decoded ({error}). It may be cut short: copy it again."
    return ImageError(text, path if data is None else None)


def check_size(annotated: tuple[Any, Any], size: tuple[int, int], where: str) -> None:
    """Refuse a row that was annotated on a picture of another size.

    Args:
        annotated: height and width as the row has them; null: unknown.
        size: those of the picture, upright, pixels.
        where: the row, for the error message.

    Raises:
        UserError: they differ.
    """
    if annotated in ((None, None), size):
        return
    (height, width), turned = size, annotated == size[::-1]
    hint = " upright; was it annotated without its EXIF rotation?" if turned else "."
    raise UserError(
        f"{where}: expected a picture of {annotated[1]} x {annotated[0]} pixels, as it was annotated or "
        f"first read, but got {width} x {height}{hint} Boxes and masks would be wrong."
    )


def encode_png(image: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        image = _to_bytes(image)
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image.convert("RGB")


def _to_rgb_as_stored(image: Image.Image) -> Image.Image:
    """Return what TensorFlow's `decode_image` makes of a file, but for its JPEG decoder."""
    if image.mode in {"I", "F"}:  # TensorFlow reads no such file
        return _to_rgb(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        is_gif, image = image.format == "GIF", image.convert("RGBA")
        if is_gif:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


class _ScaleError(ValueError):
    """Grey values that have no known scale."""


def _to_bytes(image: Image.Image) -> Image.Image:
    """Scale greys of 16 or 32 bits to 8; Pillow itself clips them at 255.

    Whole numbers are taken for the least of 8, 10, 12, 14 and 16 bits that holds them: many cameras
    write 12 bits into 16, whose high byte would be black. Floats are shares of white, or 0 to 255.

    Raises:
        ValueError: they are neither.
    """
    grey = np.asarray(image)
    low, high = (float(grey.min()), float(grey.max())) if grey.size else (0.0, 0.0)
    floats = image.mode == "F"
    if not np.isfinite([low, high]).all() or low < 0 or high > (255 if floats else 65535):
        raise _ScaleError(
            f"has grey values from {low:g} to {high:g}, whose scale is unknown: expected whole numbers of "
            "up to 16 bits, or floats of 0 to 1 or 0 to 255. Convert it to 8 bits."
        )
    if floats:
        scaled = np.rint(grey * (255 if high <= 1 else 1))
    else:
        bits = next(bits for bits in _DEPTHS if high < 1 << bits)
        scaled = grey.astype(np.uint16) >> (bits - 8)
    return Image.fromarray(scaled.astype(np.uint8))


def check_link(source: str | Mapping[str, Any], where: str) -> None:
    """Refuse a path of a row that leads elsewhere since the row was read, to a file outside its folder.

    Args:
        source: as in `load_image`. Paths in rows have no links: `resolve_image` has followed them.
        where: the row, for the error message.

    Raises:
        UserError: the file, or a folder above it, is now a link.
    """
    path = source if isinstance(source, str) else source.get("path")
    inside = not isinstance(source, str) and source.get("bytes") is not None
    if inside or path is None or not Path(path).is_absolute() or os.path.realpath(path) == path:
        return
    raise ImageError(
        f"{where}: image `{path}` has become a link to {os.path.realpath(path)}. Put "
        "the image itself there.",
        path,
    )


def resolve_image(name: str, image_dir: Path, where: str) -> str:
    """Return the path of a picture that must lie inside a folder.

    Raises:
        UserError: `..` or a link leads out of the folder, or there is no such file.
    """
    if not isinstance(name, str) or not 0 < len(name) < _LONGEST_NAME or "\0" in name:
        raise UserError(f"{where}: expected the name of an image, got {str(name)[:80]!r}.")
    try:
        root = image_dir.resolve()
        path = (root / name).resolve()
        there = path.is_file()
    except (OSError, RuntimeError) as error:  # a link to itself, too long a name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{where}: image `{name[:80]}` cannot be looked up ({reason}).") from error
    if not path.is_relative_to(root):
        raise ImageError(
            f"{where}: image `{name}` lies outside {image_dir}. Move it inside, or pass a "
            "dataset.image_dir= that holds all pictures.",
            str(root / name),
        )
    if not there:
        raise ImageError(
            f"{where}: no image `{name}` under {image_dir}; pass dataset.image_dir=FOLDER.",
            str(root / name),
        )
    return str(path)
