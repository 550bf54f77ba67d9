"""Random changes of the training images, with boxes and masks that follow them.

Texts do not follow. An image is not flipped if its text names sides; whether a caption, an answer or a
written word is still true after a crop or a flip is for the user to judge.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from finetune.codecs.coco_mask import encode_rle
from finetune.codecs.masks import crop_mask
from finetune.codecs.rle import decode_rle
from finetune.data.examples.options import AugmentationConfig
from finetune.errors import UserError
from finetune.tasks.mixture import PART
from finetune.tasks.objects import ASKED
from finetune.tasks.task import Row

FLIP_WORDS = (
    "left", "right", "leftmost", "rightmost", "leftward", "rightward", "leftwards", "rightwards",
    "lefthand", "righthand", "clockwise", "anticlockwise", "counterclockwise",
)  # fmt: skip
"""English words that a mirror makes wrong; `left-hand` is matched by `left`."""

_NO_TEXT = {"id", "group", "image", "images", PART}
_LOCATION = re.compile(r"<loc[0-9]{4}>")
_TRIES = 10
_LARGEST_RATIO = 4 / 3
_GREY = "gray"

Values = dict[str, Any]
"""One row by column, of which a changed one is made; the types of columns are those of the source."""

Window = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max, pixels."""


class Viewport(NamedTuple):
    """The part of an image that is shown, and its place on a canvas."""

    window: Window
    """The part of the image that is shown."""
    place: Window
    """Where on the canvas it is drawn, scaled."""
    size: tuple[int, int]
    """Width and height of the canvas, pixels."""
    flip: bool
    """Mirror the canvas."""

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the canvas per pixel of the image, across and down."""
        x_min, y_min, x_max, y_max = self.window
        left, top, right, bottom = self.place
        return (right - left) / (x_max - x_min), (bottom - top) / (y_max - y_min)

    def apply(self, image: Image.Image, method: Image.Resampling, background: str | int) -> Image.Image:
        """Draw an image on the canvas."""
        left, top, right, bottom = self.place
        part = image.crop(self.window)
        if self.scale != (1, 1):
            part = part.resize((right - left, bottom - top), method)
        if part.size != self.size:
            canvas = Image.new(image.mode, self.size, background)
            canvas.paste(part, (left, top))
            part = canvas
        return ImageOps.mirror(part) if self.flip else part

    def apply_to_mask(self, mask: np.ndarray) -> np.ndarray:
        """Draw a mask, (height, width) bool, on the canvas."""
        image = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(self.apply(image, Image.Resampling.NEAREST, 0)) != 0

    def transform_box(self, box_xyxy: Sequence[float]) -> list[float]:
        """Return a box of the image in pixels of the canvas; it is not clipped."""
        corners = np.reshape(box_xyxy, (2, 2))
        window, place = np.reshape(self.window, (2, 2)), np.reshape(self.place, (2, 2))
        # Multiplied before it is divided, so that an edge of the window is exactly an edge of the place.
        moved = (corners - window[0]) * (place[1] - place[0]) / (window[1] - window[0]) + place[0]
        left, top, right, bottom = moved.ravel().tolist()
        if self.flip:
            left, right = self.size[0] - right, self.size[0] - left
        return [left, top, right, bottom]


@dataclass(frozen=True)
class Augmentation:
    """Changes images at random; with the options' defaults it changes nothing."""

    options: AugmentationConfig

    def __call__(self, image: Image.Image, row: Values, draw: Random) -> tuple[Image.Image, Values]:
        """Return the changed image, and the row changed with it; both depend on `draw` alone.

        Args:
            image: RGB.
            row: its `width`, `height` and `objects`, if it has them, refer to the image.
            draw: source of randomness of this example in this epoch.

        Raises:
            UserError: the row has boxes in its text, or a mask of another size than the image.
        """
        for enhance, strength in (
            (ImageEnhance.Brightness, self.options.brightness),
            (ImageEnhance.Contrast, self.options.contrast),
            (ImageEnhance.Color, self.options.saturation),
        ):
            if strength > 0:
                image = enhance(image).enhance(1 + strength * draw.uniform(-1, 1))
        return self._transform(image, row, draw) if self.options.moves else (image, row)

    def check_row(self, row: Row) -> None:
        """Refuse rows whose boxes are already text: they cannot be transformed.

        Raises:
            UserError: objects may move, and a text has location tokens.
        """
        if self.options.moves and any(_LOCATION.search(text) for text in _iterate_texts(row)):
            raise UserError(
                f"Row `{row['id']}` has boxes in its text, which cannot follow an image that is flipped, "
                "cropped or scaled. Choose augmentation.flip=0 augmentation.crop=1 "
                "augmentation.resize=[1,1], or a dataset that has its boxes in `objects`."
            )

    def _transform(self, image: Image.Image, row: Values, draw: Random) -> tuple[Image.Image, Values]:
        self.check_row(row)
        flip = draw.random() < self.options.flip and not self._names_sides(row)
        objects = row.get("objects") or []
        whole = Viewport((0, 0, *image.size), (0, 0, *image.size), image.size, flip)
        view, kept = whole, objects
        for _ in range(_TRIES):
            view = self._draw_viewport(whole, draw)
            kept = self._transform_objects(objects, view, whole, row)
            if _has_asked(kept, row) or not _has_asked(objects, row):
                break
        else:
            view, kept = whole, self._transform_objects(objects, whole, whole, row)
        if view == whole and not flip:
            return image, row
        changed = dict(zip(("width", "height"), view.size, strict=True)) | {"objects": kept}
        row = {**row, **{name: value for name, value in changed.items() if row.get(name) is not None}}
        return view.apply(image, Image.Resampling.BICUBIC, _GREY), row

    @cached_property
    def _sides(self) -> re.Pattern[str]:
        words = FLIP_WORDS if self.options.flip_words is None else self.options.flip_words
        # Not every script separates words: those outside ASCII are found anywhere.
        patterns = [rf"\b{re.escape(w)}\b" if w.isascii() else re.escape(w) for w in words]
        return re.compile("|".join(patterns) or "(?!)", re.IGNORECASE)

    def _names_sides(self, row: Row) -> bool:
        return any(self._sides.search(text) for text in _iterate_texts(row))

    def _draw_viewport(self, whole: Viewport, draw: Random) -> Viewport:
        """Draw a crop and a scale; the number of draws does not depend on the image."""
        size, window = whole.size, whole.window
        if self.options.crop < 1:
            share = draw.uniform(self.options.crop, 1)
            # Only ratios with which a crop of this share fits into the image.
            widest = min(math.log(_LARGEST_RATIO), -math.log(share))
            ratio = math.exp(draw.uniform(-widest, widest))
            window = _draw_window(window, math.sqrt(share * ratio), math.sqrt(share / ratio), draw)
            size = (window[2] - window[0], window[3] - window[1])
        place = (0, 0, *size)
        if tuple(self.options.resize) != (1, 1):
            factor = draw.uniform(*self.options.resize)
            if factor < 1:
                place = _draw_window(place, factor, factor, draw)
            else:
                window = _draw_window(window, 1 / factor, 1 / factor, draw)
        return Viewport(window, place, size, whole.flip)

    def _transform_objects(
        self, objects: Sequence[Row], view: Viewport, whole: Viewport, row: Row
    ) -> list[Values]:
        """Transform the objects; a viewport of the whole image keeps all, any other those still visible."""
        width, height = whole.size
        moved = []
        for obj in objects:
            try:
                rle = obj.get("mask_rle")
                mask = None if rle is None else decode_rle(rle, (height, width))
            except ValueError as error:
                raise UserError(f"Row `{row['id']}`: object `{obj['label']}`: {error}") from error
            changed = self._transform_object(obj, mask, view, is_whole=view == whole)
            if changed is not None:
                moved.append(changed)
        return moved

    def _transform_object(
        self, obj: Row, mask: np.ndarray | None, view: Viewport, *, is_whole: bool
    ) -> Values | None:
        """Return an object in pixels of the canvas, or None if too little of it is visible."""
        x_min, y_min, x_max, y_max = view.window
        inside, share = obj["box_xyxy"], 1.0
        if not is_whole:
            inside = np.clip(inside, (x_min, y_min, x_min, y_min), (x_max, y_max, x_max, y_max)).tolist()
            seen, area = _box_area(inside), _box_area(obj["box_xyxy"])
            if seen == 0 or seen < self.options.min_visible * area:
                return None
            share = seen / area
        box = view.transform_box(inside)
        changed = {**obj, "box_xyxy": box}
        if mask is not None:
            shown = view.apply_to_mask(mask)
            changed["mask_rle"] = encode_rle(shown)
            if not is_whole:
                if not crop_mask(shown, np.array(box)).any():  # the mask codec would refuse it
                    return None
                share = float(mask[y_min:y_max, x_min:x_max].sum() / mask.sum())
        if obj.get("area") is not None:
            changed["area"] = obj["area"] * share * math.prod(view.scale)
        return changed


def _iterate_texts(row: Row) -> Iterator[str]:
    """Yield the row's strings, including those in lists and the labels of its objects."""
    for name, value in row.items():
        if name == "objects":
            yield from (obj["label"] for obj in value or [])
        elif name not in _NO_TEXT:
            texts = value if isinstance(value, (list, tuple)) else [value]
            yield from (text for text in texts if isinstance(text, str))


def _has_asked(objects: Sequence[Row], row: Row) -> bool:
    """Return whether an object can be written: not a crowd, and of the class that the row asks for."""
    return any(not obj["iscrowd"] and row.get(ASKED) in (None, obj["label"]) for obj in objects)


def _draw_window(outer: Window, across: float, down: float, draw: Random) -> Window:
    """Draw the place of a box inside another, of which it has these shares of width and height."""
    left, top, right, bottom = outer
    width = min(math.ceil(across * (right - left)), right - left)
    height = min(math.ceil(down * (bottom - top)), bottom - top)
    x = left + int(draw.random() * (right - left - width + 1))
    y = top + int(draw.random() * (bottom - top - height + 1))
    return x, y, x + width, y + height


def _box_area(box_xyxy: Sequence[float] | np.ndarray) -> float:
    x_min, y_min, x_max, y_max = box_xyxy
    return float(max(x_max - x_min, 0) * max(y_max - y_min, 0))
