"""Boxes, masks and answers drawn onto images, for people to look at."""

import math
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.codecs.rle import decode_rle
from finetune.errors import UserError
from finetune.example import PredictionRow, SceneObject

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PALETTE: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip
"""Okabe and Ito's colors but for black; those who cannot tell red from green can tell these apart."""

SMALLEST_SIDE = 320
"""Pixels of the short side that make tags readable."""

_LARGEST_SIDE = 4096
_FILL = 0.4
_BLACK, _WHITE, _GREY = (0, 0, 0), (255, 255, 255), (110, 110, 110)
_MOST_LINES = 12


class _Shape(NamedTuple):
    """An object on the image that is drawn."""

    tag: str
    box: Box
    """Whole pixels inside the image: x_min, y_min, x_max, y_max, the last two not part of it."""
    mask: np.ndarray | None
    """(height, width) bool."""
    color: Color
    is_truth: bool = False
    """Whether it was annotated: its box is dashed and its mask outlined in white."""


def label_color(label: str) -> Color:
    """Return the color of a label: the same one in every image; several labels may share it."""
    return PALETTE[zlib.crc32(label.encode("utf-8", "replace")) % len(PALETTE)]


def draw_objects(
    image: Image.Image, objects: Sequence[SceneObject], *, truth: Sequence[SceneObject] = ()
) -> Image.Image:
    """Draw objects onto a copy of an image.

    Args:
        image: of any mode.
        objects: as prediction rows have them: `box_xyxy` in the image's pixels and, where they are
            known, `label`, `score` and `mask_rle`. What is outside is drawn at the edge.
        truth: annotated objects, whose boxes are drawn dashed in black and white, with their labels in
            black on white.

    Returns:
        RGB, of the same size.

    Raises:
        UserError: a box is not four finite numbers, or a mask cannot be read or is of another size.
    """
    return _draw(image.convert("RGB"), objects, truth, image.size)


def draw_prediction(image: Image.Image, row: PredictionRow) -> Image.Image:
    """Draw a prediction row: its objects on the image, prompt and answer below.

    Args:
        image: the row's image; one that is smaller than 320 pixels is enlarged by a whole factor first.
        row: `prefix`, `prediction`, `prediction_objects` and `objects`, the truth, where it has them.

    Returns:
        RGB, as wide as the image or its enlargement, and higher by the lines of text; no more than
        twelve lines each of prompt and answer.

    Raises:
        UserError: as in `draw_objects`; the message names the row.
    """
    drawn = draw_row(image, row, SMALLEST_SIDE, max(_LARGEST_SIDE, *image.size))
    return _add_caption(drawn, row.get("prefix") or "", row.get("prediction") or "")


def draw_row(image: Image.Image, row: PredictionRow, smallest: int, largest: int) -> Image.Image:
    """Draw the objects of a prediction row onto a copy of its image in another size.

    Args:
        image: the row's image.
        row: `prediction_objects` and `objects`, the truth, where it has them, in pixels of the image.
        smallest: pixels of the short side; a smaller image is enlarged by a whole factor.
        largest: pixels of the long side, at most.

    Returns:
        RGB.

    Raises:
        UserError: as in `draw_objects`; the message names the row.
    """
    short, long = sorted(image.size)
    if long > largest:
        shrunk = [max(1, round(side * largest / long)) for side in image.size]
        resized = image.convert("RGB").resize((shrunk[0], shrunk[1]), Image.Resampling.LANCZOS)
    else:
        factor = max(1, min(math.ceil(smallest / short), largest // long))
        resized = image.convert("RGB").resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    try:
        return _draw(resized, row.get("prediction_objects") or (), row.get("objects") or (), image.size)
    except UserError as error:
        raise UserError(f"Row `{row.get('id')}`: {error}") from error


def _draw(
    image: Image.Image,
    objects: Sequence[SceneObject],
    truth: Sequence[SceneObject],
    original: tuple[int, int],
) -> Image.Image:
    """Draw onto a copy of an image in another size; boxes and masks are those of the original."""
    shapes = [_read_shape(obj, image.size, original) for obj in objects]
    # Small ones last, so that large ones do not hide them.
    shapes.sort(key=lambda shape: _area(shape.box), reverse=True)
    truths = [_read_shape(obj, image.size, original, is_truth=True) for obj in truth]
    line = max(2, round(min(image.size) / 200))
    canvas = _tint(image, [*shapes, *truths], line)
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        draw.rectangle(_inclusive(shape.box), outline=shape.color, width=line)
    for shape in truths:
        _draw_dashes(draw, shape.box, max(1, line // 2))
    _draw_tags(draw, [*shapes, *truths], canvas.size, line)
    return canvas


def _read_shape(
    obj: SceneObject, size: tuple[int, int], original: tuple[int, int], is_truth: bool = False
) -> _Shape:
    label, score = obj.get("label") or "", obj.get("score")
    tag = " ".join(part for part in (_clean(label), "" if score is None else f"{score:.2f}") if part)
    color = _WHITE if is_truth else label_color(label)
    return _Shape(tag, _read_box(obj, size, original), _read_mask(obj, size, original), color, is_truth)


def _read_box(obj: SceneObject, size: tuple[int, int], original: tuple[int, int]) -> Box:
    """Return a box in whole pixels, at least one wide and high, inside the image."""
    try:
        corners = np.array(obj.get("box_xyxy"), dtype=np.float64).reshape(2, 2)
        if not np.isfinite(corners).all():
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(
            f"Expected `box_xyxy` of object `{obj.get('label')}` to be four finite numbers, x_min, y_min, "
            f"x_max, y_max in pixels, but got {obj.get('box_xyxy')}."
        ) from None
    corners *= np.array(size) / original
    first = np.clip(np.rint(corners.min(0)), 0, np.array(size) - 1)
    last = np.clip(np.rint(corners.max(0)), first + 1, size)
    x_min, y_min, x_max, y_max = (int(value) for value in (*first, *last))
    return x_min, y_min, x_max, y_max


def _read_mask(obj: SceneObject, size: tuple[int, int], original: tuple[int, int]) -> np.ndarray | None:
    rle = obj.get("mask_rle")
    if rle is None:
        return None
    width, height = original
    try:
        mask = decode_rle(rle, (height, width))
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"Expected `mask_rle` of object `{obj.get('label')}` to be COCO's run lengths of size "
            f"{[height, width]} (height, width), but could not read it. {error}"
        ) from error
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _tint(image: Image.Image, shapes: Sequence[_Shape], line: int) -> Image.Image:
    """Fill the masks so that the image shows through, and outline them."""
    pixels = np.array(image)
    for shape in shapes:
        if shape.mask is not None and not shape.is_truth:
            pixels[shape.mask] = np.rint(
                (1 - _FILL) * pixels[shape.mask] + _FILL * np.array(shape.color)
            ).astype(np.uint8)
    for shape in shapes:
        if shape.mask is not None:
            pixels[_edge(shape.mask, max(1, line // 2) if shape.is_truth else line)] = shape.color
    return Image.fromarray(pixels)


def _edge(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the mask's pixels that are this near to one that is not in it, or to the image's edge."""
    height, across = mask.shape
    inner = mask.copy()
    padded = np.pad(mask, width)
    for step in range(1, width + 1):
        for down, right in ((step, 0), (-step, 0), (0, step), (0, -step)):
            inner &= padded[width + down :, width + right :][:height, :across]
    return mask & ~inner


def _draw_dashes(draw: ImageDraw.ImageDraw, box: Box, width: int) -> None:
    """Draw a rectangle in black, and dashes in white over it."""
    x_min, y_min, x_max, y_max = _inclusive(box)
    draw.rectangle((x_min, y_min, x_max, y_max), outline=_BLACK, width=width)
    dash = 5 * width
    thick = width - 1
    for x in range(x_min, x_max + 1, 2 * dash):
        end = min(x + dash - 1, x_max)
        draw.rectangle((x, y_min, end, min(y_min + thick, y_max)), fill=_WHITE)
        draw.rectangle((x, max(y_max - thick, y_min), end, y_max), fill=_WHITE)
    for y in range(y_min, y_max + 1, 2 * dash):
        end = min(y + dash - 1, y_max)
        draw.rectangle((x_min, y, min(x_min + thick, x_max), end), fill=_WHITE)
        draw.rectangle((max(x_max - thick, x_min), y, x_max, end), fill=_WHITE)


def _draw_tags(
    draw: ImageDraw.ImageDraw, shapes: Sequence[_Shape], size: tuple[int, int], line: int
) -> None:
    """Write each object's label and score at its box, inside the image and next to the other tags."""
    font = _load_font(_text_size(size))
    pad = line + 1
    height = _line_height(font) + pad
    taken: list[Box] = []
    for shape in shapes:
        text = _shorten(shape.tag, font, size[0] - 2 * pad)
        if not text:
            continue
        width = math.ceil(font.getlength(text)) + 2 * pad
        x_min, y_min, x_max, y_max = shape.box
        # At an object that was found, its own label is above the box and the true one below.
        heights = (y_min - height, y_min, y_max - height, y_max)
        places = [
            _push_inside((x, y, x + width, y + height), size)
            for y in (reversed(heights) if shape.is_truth else heights)
            for x in (x_min, x_max - width)
        ]
        place = next((one for one in places if not any(_overlap(one, tag) for tag in taken)), places[0])
        taken.append(place)
        draw.rectangle(_inclusive(place), fill=shape.color)
        middle = (place[0] + pad, (place[1] + place[3]) / 2)
        draw.text(middle, text, fill=_readable_on(shape.color), font=font, anchor="lm")


def _add_caption(image: Image.Image, prompt: str, answer: str) -> Image.Image:
    """Write prompt and answer below an image, the prompt in gray."""
    font = _load_font(_text_size(image.size))
    height = _line_height(font)
    pad = height // 2
    room = image.width - 2 * pad
    lines = [
        (text, color)
        for part, color in ((prompt, _GREY), (answer, _BLACK))
        for text in _wrap(part, font, room)
    ]
    if not lines:
        return image
    page = Image.new("RGB", (image.width, image.height + height * len(lines) + 2 * pad), _WHITE)
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    for number, (text, color) in enumerate(lines):
        place = (pad, image.height + pad + (number + 0.5) * height)
        draw.text(place, text, fill=color, font=font, anchor="lm")
    return page


def _wrap(text: str, font: Font, room: float) -> list[str]:
    """Break text into lines at spaces, and within words that are longer than a line."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for piece in _pieces(_clean(paragraph), font, room):
            if line and font.getlength(f"{line} {piece}") > room:
                lines.append(line)
                line = ""
            line = f"{line} {piece}" if line else piece
            if len(lines) >= _MOST_LINES:
                return [*lines[: _MOST_LINES - 1], _shorten(f"{lines[_MOST_LINES - 1]} ...", font, room)]
        lines.append(line)
    return lines


def _pieces(text: str, font: Font, room: float) -> Iterator[str]:
    """Yield the words, and the parts of those that are longer than a line."""
    for word in text.split():
        start = 0
        for end in range(1, len(word) + 1):
            if end - start > 1 and font.getlength(word[start:end]) > room:
                yield word[start : end - 1]
                start = end - 1
        yield word[start:]


def _shorten(text: str, font: Font, room: float) -> str:
    """Cut the end of a text that is wider than the room, and mark it; an empty one where nothing fits."""
    if font.getlength(text) <= room:
        return text
    for end in range(min(len(text), 200), 0, -1):
        if font.getlength(f"{text[:end]}...") <= room:
            return f"{text[:end]}..."
    return ""


def _clean(text: str) -> str:
    """Replace control characters, line breaks among them."""
    return "".join(" " if unicodedata.category(one) == "Cc" else one for one in text).strip()


@cache
def _load_font(size: int) -> Font:
    return ImageFont.load_default(size)


def _text_size(size: tuple[int, int]) -> int:
    return max(14, round(min(size) / 36))


def _line_height(font: Font) -> int:
    _, top, _, bottom = font.getbbox("Ágj")
    return math.ceil((bottom - top) * 1.3)


def _readable_on(color: Color) -> Color:
    """Return black or white, whichever differs more in luminance (WCAG 2's contrast ratio)."""
    shares = [(value / 255) ** 2.2 for value in color]
    luminance = 0.2126 * shares[0] + 0.7152 * shares[1] + 0.0722 * shares[2]
    return _BLACK if (luminance + 0.05) ** 2 > 1.05 * 0.05 else _WHITE


def _inclusive(box: Box) -> Box:
    """Return the box with its last pixels, as Pillow counts."""
    return box[0], box[1], box[2] - 1, box[3] - 1


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _push_inside(box: Box, size: tuple[int, int]) -> Box:
    """Move a box into the image, whose upper left corner counts most."""
    x = max(0, min(box[0], size[0] - (box[2] - box[0])))
    y = max(0, min(box[1], size[1] - (box[3] - box[1])))
    return x, y, x + box[2] - box[0], y + box[3] - box[1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
