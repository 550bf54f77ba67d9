"""From a picture's file or bytes to an upright RGB picture; the only place where pictures are decoded."""

import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

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
    path = source if isinstance(source, str) else source.get("path")
    data = None if isinstance(source, str) else source.get("bytes")
    name = f"image `{path}`" if path else "the image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data) if data is not None else Path(str(path))) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise UserError(
                        f"{where}: {name} has {width} x {height} pixels, more than {MAX_PIXELS:,}. "
                        "Make it smaller, or leave the row out."
                    )
                if as_stored:
                    return _to_rgb_as_stored(image)
                return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise UserError(f"{where}: no {name}; pass dataset.image_dir=FOLDER.") from error
    except UnidentifiedImageError as error:
        empty = data == b"" or (data is None and Path(str(path)).stat().st_size == 0)
        what = "is empty (0 bytes)" if empty else "is not a picture that Pillow can read"
        raise UserError(f"{where}: {name} {what}. Replace the file, or leave the row out.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{where}: {name} is too large: {error} Make it smaller.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{where}: {name} cannot be decoded ({error}). It may be cut short: copy it again."
        ) from error


def read_size(source: str | Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return a picture's height and width as it stands upright, from its header alone.

    Args:
        source: as in `load_image`.
        where: the row, for the error message.

    Raises:
        UserError: the file is empty, or not a picture.
    """
    path = source if isinstance(source, str) else source["path"]
    data = None if isinstance(source, str) else source["bytes"]
    try:
        with Image.open(path if data is None else BytesIO(data)) as image:
            width, height = image.size
            # Not a PNG's own `getexif`, which decodes the whole picture first.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
            return (width, height) if turned else (height, width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{where}: image `{path}` is not a picture that Pillow can read ({error}). Replace the file, "
            "or leave the row out."
        ) from error


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
        f"{where}: annotated as {annotated[1]} x {annotated[0]} pixels, but its picture has "
        f"{width} x {height}{hint} Boxes and masks would be wrong."
    )


def encode_png(image: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit greys at 255; the high byte is the picture.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
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


def resolve_image(name: str, image_dir: Path, where: str) -> str:
    """Return the path of a picture that must lie inside a folder.

    Raises:
        UserError: `..` or a link leads out of the folder, or there is no such file.
    """
    if not isinstance(name, str) or not 0 < len(name) < _LONGEST_NAME or "\0" in name:
        raise UserError(f"{where}: expected the name of an image, got {str(name)[:80]!r}.")
    root = image_dir.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise UserError(
            f"{where}: image `{name}` lies outside {image_dir}. Move it inside, or pass a "
            "dataset.image_dir= that holds all pictures."
        )
    if not path.is_file():
        raise UserError(f"{where}: no image `{name}` under {image_dir}; pass dataset.image_dir=FOLDER.")
    return str(path)
