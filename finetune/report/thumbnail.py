"""Small copies of images: inside a page, or in files that a later page takes them from."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

_QUALITIES = (85, 70, 50)


def thumbnail(image: Image.Image, side: int = 480, most_bytes: int = 60_000) -> str:
    """Return a small copy of an image as a data URI, for `src` of an `<img>`.

    Args:
        image: of any mode and size; it is not changed.
        side: pixels of the longer side; a smaller image keeps its size.
        most_bytes: of the file, before base64 adds a third. A copy that is larger is made smaller.

    Returns:
        `data:image/png;base64,...`, or JPEG where that is smaller.
    """
    return to_data_uri(*shrink(image, side, most_bytes))


def write_thumbnail(image: Image.Image, path: Path, side: int = 480, most_bytes: int = 60_000) -> None:
    """Write a small copy of an image, as `thumbnail` makes it.

    Args:
        image: of any mode and size.
        path: without an ending, which is `.png` or `.jpeg`.
        side: pixels of the longer side.
        most_bytes: of the file.
    """
    kind, content = shrink(image, side, most_bytes)
    path.with_name(f"{path.name}.{kind}").write_bytes(content)


def read_thumbnail(path: Path) -> str:
    """Return a copy that was written as a data URI, or an empty text if there is none.

    Args:
        path: without its ending.
    """
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "jpeg")]
    return next((to_data_uri(file.suffix[1:], file.read_bytes()) for file in files if file.is_file()), "")


def place_side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Return the images of one example as one, as high as the highest."""
    if len(images) == 1:
        return images[0]
    page = Image.new(
        "RGB", (sum(one.width for one in images), max(one.height for one in images)), (255, 255, 255)
    )
    left = 0
    for one in images:
        page.paste(one, (left, 0))
        left += one.width
    return page


def to_data_uri(kind: str, content: bytes) -> str:
    """Return a file as a data URI.

    Args:
        kind: `png` or `jpeg`.
        content: of the file.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def shrink(image: Image.Image, side: int, most_bytes: int) -> tuple[str, bytes]:
    """Return the kind (`png` or `jpeg`) and the content of a small copy; see `thumbnail`."""
    copy = image.convert("RGB")
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    while True:
        kind, content = _encode(copy, most_bytes)
        if len(content) <= most_bytes or max(copy.size) <= 16:
            return kind, content
        copy = copy.resize((max(1, round(copy.width * 0.75)), max(1, round(copy.height * 0.75))))


def _encode(image: Image.Image, most_bytes: int) -> tuple[str, bytes]:
    """Return the smaller of PNG and the best JPEG that is small enough."""
    png = _save(image, "png", optimize=True)
    for quality in _QUALITIES:
        jpeg = _save(image, "jpeg", quality=quality, optimize=True)
        if len(jpeg) <= most_bytes:
            break
    return ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)


def _save(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
