"""Pictures changed at random in training, with boxes and masks that stay true of them.

A text knows nothing of the picture's change. Where it names sides, the picture is not flipped; whether a
crop or a flip leaves a caption, an answer or a written word true is for the user to judge.
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
"""English words that are no longer true in a mirror; `left-hand` is found as `left`."""

_NO_TEXT = {"id", "group", "image", "images", PART}
_LOCATION = re.compile(r"<loc[0-9]{4}>")
_TRIES = 10
_LARGEST_RATIO = 4 / 3
_GREY = "gray"


class View(NamedTuple):
    """Which part of a picture is seen, and where on a canvas it lies."""

    window: tuple[int, int, int, int]
    """The part: x_min, y_min, x_max, y_max in the picture's pixels."""
    place: tuple[int, int, int, int]
    """Where it lies, scaled: the same in the canvas's pixels."""
    size: tuple[int, int]
    """The canvas's width and height, pixels."""
    flip: bool
    """Mirror the canvas."""

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the canvas in one of the picture's, across and down."""
        x_min, y_min, x_max, y_max = self.window
        left, top, right, bottom = self.place
        return (right - left) / (x_max - x_min), (bottom - top) / (y_max - y_min)

    def show(self, image: Image.Image, method: Image.Resampling, background: str | int) -> Image.Image:
        """Return the canvas of a picture."""
        left, top, right, bottom = self.place
        part = image.crop(self.window)
        if self.scale != (1, 1):
            part = part.resize((right - left, bottom - top), method)
        if part.size != self.size:
            canvas = Image.new(image.mode, self.size, background)
            canvas.paste(part, (left, top))
            part = canvas
        return ImageOps.mirror(part) if self.flip else part

    def show_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return the canvas of a mask of (height, width) bool."""
        image = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(self.show(image, Image.Resampling.NEAREST, 0)) != 0

    def move_box(self, box_xyxy: Sequence[float]) -> list[float]:
        """Return a box of the picture on the canvas, pixels; it is not clipped."""
        corners = np.reshape(box_xyxy, (2, 2))
        window, place = np.reshape(self.window, (2, 2)), np.reshape(self.place, (2, 2))
        # Multiplied before it is divided: the window's edge is the place's edge, exactly.
        moved = (corners - window[0]) * (place[1] - place[0]) / (window[1] - window[0]) + place[0]
        left, top, right, bottom = moved.ravel().tolist()
        if self.flip:
            left, right = self.size[0] - right, self.size[0] - left
        return [left, top, right, bottom]


@dataclass(frozen=True)
class Augmentation:
    """Changes images at random; with the options' defaults it changes nothing."""

    options: AugmentationConfig

    def __call__(
        self, image: Image.Image, row: dict[str, Any], draw: Random
    ) -> tuple[Image.Image, dict[str, Any]]:
        """Return the changed picture and a row that is true of it; they depend on `draw` alone.

        Args:
            image: RGB.
            row: `width`, `height` and `objects`, where it has them, are those of the picture.
            draw: of this example in this epoch.

        Raises:
            UserError: the row has boxes in its text, or a mask that is not of the picture's size.
        """
        for enhance, strength in (
            (ImageEnhance.Brightness, self.options.brightness),
            (ImageEnhance.Contrast, self.options.contrast),
            (ImageEnhance.Color, self.options.saturation),
        ):
            if strength > 0:
                image = enhance(image).enhance(1 + strength * draw.uniform(-1, 1))
        return self._move(image, row, draw) if self.options.moves else (image, row)

    def check_row(self, row: Row) -> None:
        """Refuse boxes that are text already, and would stay where they were.

        Raises:
            UserError: things may change their places, and a text has location tokens.
        """
        if self.options.moves and any(_LOCATION.search(text) for text in _iterate_texts(row)):
            raise UserError(
                f"Row `{row['id']}` has boxes in its text, which cannot follow a picture that is flipped, "
                "cropped or scaled. Choose augmentation.flip=0 augmentation.crop=1 "
                "augmentation.resize=[1,1], or a data set that has its boxes in `objects`."
            )

    def _move(
        self, image: Image.Image, row: dict[str, Any], draw: Random
    ) -> tuple[Image.Image, dict[str, Any]]:
        self.check_row(row)
        flip = draw.random() < self.options.flip and not self._names_sides(row)
        objects = row.get("objects") or []
        whole = View((0, 0, *image.size), (0, 0, *image.size), image.size, flip)
        view, kept = whole, objects
        for _ in range(_TRIES):
            view = self._draw_view(whole, draw)
            kept = self._move_objects(objects, view, whole, row)
            if _has_asked(kept, row) or not _has_asked(objects, row):
                break
        else:
            view, kept = whole, self._move_objects(objects, whole, whole, row)
        if view == whole and not flip:
            return image, row
        changed = dict(zip(("width", "height"), view.size, strict=True)) | {"objects": kept}
        row = {**row, **{name: value for name, value in changed.items() if row.get(name) is not None}}
        return view.show(image, Image.Resampling.BICUBIC, _GREY), row

    @cached_property
    def _sides(self) -> re.Pattern[str]:
        words = FLIP_WORDS if self.options.flip_words is None else self.options.flip_words
        # Not every script separates words: those outside ASCII are found anywhere.
        patterns = [rf"\b{re.escape(w)}\b" if w.isascii() else re.escape(w) for w in words]
        return re.compile("|".join(patterns) or "(?!)", re.IGNORECASE)

    def _names_sides(self, row: Row) -> bool:
        return any(self._sides.search(text) for text in _iterate_texts(row))

    def _draw_view(self, whole: View, draw: Random) -> View:
        """Draw a crop and a scale; the draws are as many for a picture of any size."""
        size, window = whole.size, whole.window
        if self.options.crop < 1:
            share = draw.uniform(self.options.crop, 1)
            # Of the ratios, those with which a crop of this share fits into the picture.
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
        return View(window, place, size, whole.flip)

    def _move_objects(
        self, objects: Sequence[Row], view: View, whole: View, row: Row
    ) -> list[dict[str, Any]]:
        """Move the objects; a view of the whole picture keeps all, any other those that are still seen."""
        width, height = whole.size
        moved = []
        for one in objects:
            try:
                rle = one.get("mask_rle")
                mask = None if rle is None else decode_rle(rle, (height, width))
            except ValueError as error:
                raise UserError(f"Row `{row['id']}`: object `{one['label']}`: {error}") from error
            changed = self._move_object(one, mask, view, is_whole=view == whole)
            if changed is not None:
                moved.append(changed)
        return moved

    def _move_object(
        self, one: Row, mask: np.ndarray | None, view: View, *, is_whole: bool
    ) -> dict[str, Any] | None:
        """Return an object on the canvas, or null where too little of it is seen."""
        x_min, y_min, x_max, y_max = view.window
        inside, share = one["box_xyxy"], 1.0
        if not is_whole:
            inside = np.clip(inside, (x_min, y_min, x_min, y_min), (x_max, y_max, x_max, y_max)).tolist()
            seen, area = _box_area(inside), _box_area(one["box_xyxy"])
            if seen == 0 or seen < self.options.min_visible * area:
                return None
            share = seen / area
        box = view.move_box(inside)
        changed = {**one, "box_xyxy": box}
        if mask is not None:
            shown = view.show_mask(mask)
            changed["mask_rle"] = encode_rle(shown)
            if not is_whole:
                if not crop_mask(shown, np.array(box)).any():  # the mask codec would refuse it
                    return None
                share = float(mask[y_min:y_max, x_min:x_max].sum() / mask.sum())
        if one.get("area") is not None:
            changed["area"] = one["area"] * share * math.prod(view.scale)
        return changed


def _iterate_texts(row: Row) -> Iterator[str]:
    """Yield the row's strings, those in lists and the objects' labels among them."""
    for name, value in row.items():
        if name == "objects":
            yield from (one["label"] for one in value or [])
        elif name not in _NO_TEXT:
            texts = value if isinstance(value, (list, tuple)) else [value]
            yield from (text for text in texts if isinstance(text, str))


def _has_asked(objects: Sequence[Row], row: Row) -> bool:
    """Whether there is an object to write: no crowd, and of the class that the row asks for."""
    return any(not one["iscrowd"] and row.get(ASKED) in (None, one["label"]) for one in objects)


def _draw_window(
    outer: tuple[int, int, int, int], across: float, down: float, draw: Random
) -> tuple[int, int, int, int]:
    """Draw where a box lies within another, of which it has these shares of width and height."""
    left, top, right, bottom = outer
    width = min(math.ceil(across * (right - left)), right - left)
    height = min(math.ceil(down * (bottom - top)), bottom - top)
    x = left + int(draw.random() * (right - left - width + 1))
    y = top + int(draw.random() * (bottom - top - height + 1))
    return x, y, x + width, y + height


def _box_area(box_xyxy: Sequence[float] | np.ndarray) -> float:
    x_min, y_min, x_max, y_max = box_xyxy
    return float(max(x_max - x_min, 0) * max(y_max - y_min, 0))
