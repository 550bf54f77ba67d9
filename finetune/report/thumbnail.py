"""Small copies of images, inside a page."""

import base64
import io

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
    copy = image.convert("RGB")
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    while True:
        kind, content = _encode(copy, most_bytes)
        if len(content) <= most_bytes or max(copy.size) <= 16:
            return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
        copy = copy.resize([max(1, round(length * 0.75)) for length in copy.size])


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
