"""From an image's file or bytes to an upright RGB image; the only place where images are decoded."""

import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from finetune.errors import UserError, describe

IMAGE_SUFFIXES = frozenset(".bmp .gif .jpe .jpeg .jpg .png .ppm .pgm .tif .tiff .webp .avif .heic".split())
"""File name endings of images."""

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: a small file can expand to gigabytes."""

_LONGEST_NAME = 1024  # the system refuses longer paths, with a less helpful message
_DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths that cameras and scanners store in 16 bits."""
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
"""Format -> the last bytes of a whole file."""


class ImageError(UserError):
    """An image that cannot be used.

    Args:
        message: names the row.
        path: of the image, if it is a file: a row that was left out is read again when the file changes.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        # As in `UserError`: a DataLoader worker puts its own traceback before the message.
        worker = message.startswith("Caught ImageError in")
        super().__init__(message.rpartition("ImageError: ")[2].strip() if worker else message)
        self.path = path


@dataclass(frozen=True)
class Picture:
    """An image that a row names or holds; nothing is read before `size` or `load` is called."""

    source: str | Mapping[str, object]
    """A path, or what `datasets` stores: `{"bytes": ..., "path": ...}`."""
    where: str
    """The row, for error messages."""

    @property
    def path(self) -> str | None:
        """The path of the file; of an image inside its row, the name that it had."""
        path = self.source if isinstance(self.source, str) else self.source.get("path")
        return None if path is None else str(path)

    @property
    def data(self) -> bytes | None:
        """The content of the file, if it is inside the row."""
        data = None if isinstance(self.source, str) else self.source.get("bytes")
        if data is not None and not isinstance(data, bytes):
            raise ImageError(f"{self.where}: expected the bytes of an image, got {describe(data)}.")
        return data

    @property
    def key(self) -> str:
        """Identifies the content without decoding it: the path, or a digest of the bytes."""
        return str(self.path) if self.data is None else blake2b(self.data, digest_size=16).hexdigest()

    def read(self) -> bytes:
        """Return the content of the file.

        Raises:
            UserError: the file is missing or cannot be read.
        """
        try:
            with _open_stream(self.path, self.data) as stream:
                return stream.read()
        except (OSError, ValueError) as error:
            raise self._explain(error) from error

    def load(self, as_stored: bool = False) -> Image.Image:
        """Decode the image.

        Args:
            as_stored: read it as TensorFlow's `decode_image` does: no EXIF rotation, and transparency is
                dropped, so that the colors under it show; a GIF's is black.

        Returns:
            RGB; by default with the EXIF rotation applied, and transparency on white.

        Raises:
            UserError: the file is missing, empty, cut short, too large or not an image.
        """
        with self._open() as (image, _):
            return convert_image(image, as_stored)

    def size(self) -> tuple[int, int]:
        """Return height and width with the EXIF rotation applied, pixels, from the header alone.

        An image that seems to be cut short, or whose values may not fit into 8 bits, is also decoded.

        Raises:
            UserError: the file is missing, empty, cut short, too large or not an image.
        """
        with self._open() as (image, stream):
            width, height = image.size
            # Not a PNG's own `getexif`, which decodes the whole image first.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
            doubtful = image.mode[0] in "IF" or _seems_cut(stream, image.format or "")
        if doubtful:
            self.load()
        return (width, height) if turned else (height, width)

    def check_link(self) -> None:
        """Refuse a file that has become a link since the row was read, perhaps to outside its folder.

        Paths in rows have no links: `resolve_image` has followed them.

        Raises:
            UserError: the file, or a folder above it, is now a link.
        """
        path = self.path
        if self.data is not None or path is None or not Path(path).is_absolute():
            return
        if (target := os.path.realpath(path)) != path:
            text = (
                f"{self.where}: image `{path}` has become a link to {target}. Put the image itself there."
            )
            raise ImageError(text, path)

    @contextmanager
    def _open(self) -> Iterator[tuple[Image.Image, IO[bytes]]]:
        """Open the image, and the stream that it is read from.

        Raises:
            UserError: as in `load`; what the block raises of its kind is explained too.
        """
        try:
            with _open_stream(self.path, self.data) as stream, warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(stream) as image:
                    _check_pixels(image)
                    yield image, stream
        except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> ImageError:
        path, data = self.path, self.data
        name = f"image `{path}`" if path else "the image"
        subject = f"{self.where}: {name}"
        if isinstance(error, FileNotFoundError):
            text = f"{self.where}: no {name}; pass dataset.image_dir=FOLDER."
        elif isinstance(error, UnidentifiedImageError):
            empty = data == b"" or (data is None and Path(str(path)).stat().st_size == 0)
            what = "is empty (0 bytes)" if empty else "is not an image that Pillow can read"
            text = f"{subject} {what}. Replace the file, or leave the row out."
        elif isinstance(error, Image.DecompressionBombError):
            text = f"{subject} is too large: {error} Make it smaller, or leave the row out."
        elif isinstance(error, _ScaleError):
            text = f"{subject} {error}"
        elif isinstance(error, OSError) and error.errno is not None:
            reason = error.strerror
            text = f"{subject} cannot be read ({reason}). Check the name, the link and the permissions."
        else:
            text = f"{subject} cannot be decoded ({error}). It may be cut short: copy it again."
        return ImageError(text, path if data is None else None)


def convert_image(image: Image.Image, as_stored: bool = False) -> Image.Image:
    """Return an image that a program has opened as `Picture.load` returns one from a file.

    Raises:
        ValueError: its gray values have no known scale.
    """
    return _to_rgb_as_stored(image) if as_stored else _to_rgb(ImageOps.exif_transpose(image))


def _open_stream(path: str | None, data: bytes | None) -> IO[bytes]:
    if data is not None:
        return BytesIO(data)
    if path is None:
        raise FileNotFoundError("it has neither bytes nor a path")
    file = Path(path)
    if not stat.S_ISREG(file.stat().st_mode):  # a pipe would wait forever
        raise ValueError("not a file")
    return file.open("rb")


def _check_pixels(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}.")


def _seems_cut(stream: IO[bytes], kind: str) -> bool:
    """Return whether a file does not end as its format says; it may be whole, with more data after it."""
    size = stream.seek(0, os.SEEK_END)
    if kind == "WEBP":
        stream.seek(4)
        return int.from_bytes(stream.read(4), "little") + 8 > size
    end = _ENDS.get(kind, b"")
    stream.seek(max(0, size - len(end)))
    return stream.read() != end


def check_size(annotated: tuple[object, object], size: tuple[int, int], where: str) -> None:
    """Refuse a row that was annotated on an image of another size.

    Args:
        annotated: height and width as in the row; None: unknown.
        size: height and width of the image with the EXIF rotation applied, pixels.
        where: the row, for the error message.

    Raises:
        UserError: they differ.
    """
    if annotated in ((None, None), size):
        return
    (height, width), turned = size, annotated == size[::-1]
    hint = " upright; was it annotated without its EXIF rotation?" if turned else "."
    raise UserError(
        f"{where}: expected an image of {annotated[1]} x {annotated[0]} pixels, as it was annotated or "
        f"first read, but got {width} x {height}{hint} Boxes and masks would be wrong."
    )


def encode_png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
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
    """Return the result of TensorFlow's `decode_image`, except for its JPEG decoder."""
    if image.mode in {"I", "F"}:  # TensorFlow does not read such files
        return _to_rgb(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        is_gif, image = image.format == "GIF", image.convert("RGBA")
        if is_gif:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


class _ScaleError(ValueError):
    """Gray values of unknown scale."""


def _to_bytes(image: Image.Image) -> Image.Image:
    """Scale gray values of 16 or 32 bits to 8; Pillow itself clips them at 255.

    Whole numbers are scaled by the least of 8, 10, 12, 14 and 16 bits that fits: many cameras write 12
    bits into 16, whose high byte alone would be almost black. Floats are 0 to 1, or 0 to 255.

    Raises:
        ValueError: the values are in none of these ranges.
    """
    gray = np.asarray(image)
    low, high = (float(gray.min()), float(gray.max())) if gray.size else (0.0, 0.0)
    floats = image.mode == "F"
    if not np.isfinite([low, high]).all() or low < 0 or high > (255 if floats else 65535):
        raise _ScaleError(
            f"has gray values from {low:g} to {high:g}, whose scale is unknown: expected whole numbers of "
            "up to 16 bits, or floats of 0 to 1 or 0 to 255. Convert it to 8 bits."
        )
    if floats:
        scaled = np.rint(gray * (255 if high <= 1 else 1))
    else:
        bits = next(bits for bits in _DEPTHS if high < 1 << bits)
        scaled = gray.astype(np.uint16) >> (bits - 8)
    return Image.fromarray(scaled.astype(np.uint8))


def resolve_image(name: object, image_dir: Path | Sequence[Path], where: str) -> str:
    """Return the path of an image in a folder, or of one that is named by an absolute path.

    A relative path may not lead out of its folder. An absolute path may lead anywhere, but only to a file
    that is named as an image, also after links have been followed. One of another machine, which does not
    exist here, is sought by its last names in the folder.

    Args:
        name: as in the file of the user; a backslash separates folders too.
        image_dir: the folder, or several that are tried in order.
        where: file and place, for the error message.

    Raises:
        UserError: `..` or a link leads out of the folder, or there is no such file.
    """
    if not isinstance(name, str) or not 0 < len(name) < _LONGEST_NAME or "\0" in name:
        raise UserError(f"{where}: expected the name of an image, got {str(name)[:80]!r}.")
    if re.match(r"(https?|s3|gs)://|data:", name):
        raise ImageError(
            f"{where}: image `{name[:80]}` is an address or data; expected a file. Nothing is fetched: "
            "download the images."
        )
    folders = [image_dir] if isinstance(image_dir, Path) else list(image_dir)
    outside = None
    for spelled in spell_paths(name):
        for folder in folders:
            path, root, exists = _follow(folder, spelled, where)
            absolute = Path(spelled).is_absolute()
            if not path.is_relative_to(root) and not (absolute and path.suffix.lower() in IMAGE_SUFFIXES):
                outside = outside or (str(folder) if exists or not absolute else None)
            elif exists:
                return str(path)
    first = str(folders[0].resolve() / name)
    if outside is not None:
        raise ImageError(
            f"{where}: image `{name}` is outside {outside}. Move it inside, name it by its absolute path, "
            "or pass a dataset.image_dir= that has all images.",
            first,
        )
    listed = ", ".join(map(str, folders))
    raise ImageError(f"{where}: no image `{name}` under {listed}; pass dataset.image_dir=FOLDER.", first)


def spell_paths(name: str) -> Iterator[str]:
    """Yield a path as it is, with `/` between its parts, and the ends of one that is absolute."""
    yield name
    plain = name.removeprefix("file://").replace("\\", "/")
    if plain != name:
        yield plain
    if plain.startswith("/") or re.match(r"[A-Za-z]:/", plain):
        parts = [
            part for part in re.sub(r"^[A-Za-z]:/", "", plain).split("/") if part not in {"", ".", ".."}
        ]
        yield from ("/".join(parts[start:]) for start in range(len(parts)))


def _follow(folder: Path, name: str, where: str) -> tuple[Path, Path, bool]:
    """Return the path of a name and the folder, with links followed, and whether there is such a file.

    Raises:
        UserError: it cannot be looked up.
    """
    try:
        root = folder.resolve()
        path = (root / name).resolve()
        return path, root, path.is_file()
    except (OSError, RuntimeError) as error:  # a link to itself, too long a name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{where}: image `{name[:80]}` cannot be looked up ({reason}).") from error


def measure_image(
    name: object, image_dir: Path | Sequence[Path], where: str
) -> tuple[str, tuple[int, int]]:
    """Return the path of an image as `resolve_image` finds it, and its height and width, pixels.

    Raises:
        UserError: as in `resolve_image` and `Picture.size`.
    """
    path = resolve_image(name, image_dir, where)
    return path, Picture(path, where).size()
