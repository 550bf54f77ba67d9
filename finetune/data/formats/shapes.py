"""Shapes of annotation tools as polygons."""

import math
from collections.abc import Sequence
from itertools import chain

from finetune.data.objects import Note, build_object
from finetune.example import SceneObject

Point = tuple[float, float]
"""x and y, pixels."""

_CORNERS = 64
"""Points of a polygon in place of an ellipse."""


def place_shape(
    label: str, polygons: Sequence[Sequence[Point]], size: tuple[int, int], where: str, clip: Note | None
) -> SceneObject:
    """Return polygons as one object: their union as its mask, and the box around them.

    Args:
        label: its class.
        polygons: one or more, pixels.
        size: the image's height and width, pixels.
        where: file and place, for the error message.
        clip: as in `build_object`.

    Raises:
        UserError: as in `build_object`.
    """
    box = surround(list(chain(*polygons)))
    flat = [list(chain(*polygon)) for polygon in polygons]
    return build_object(label, box, size, where, segmentation=flat, clip=clip)


def surround(points: Sequence[Point]) -> tuple[float, ...]:
    """Return the box around points: x_min, y_min, x_max, y_max; empty without points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs), min(ys), max(xs), max(ys)) if points else ()


def turn_box(corners: Sequence[float], degrees: float, around: Point | None = None) -> list[Point]:
    """Return the corners of a box turned clockwise.

    Args:
        corners: x_min, y_min, x_max, y_max, pixels.
        degrees: the angle.
        around: the point that stays; None: the center.
    """
    x_min, y_min, x_max, y_max = corners
    fixed = around or ((x_min + x_max) / 2, (y_min + y_max) / 2)
    return [
        _turn(point, degrees, fixed)
        for point in ((x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max))
    ]


def trace_ellipse(center: Point, radii: Point, degrees: float = 0.0) -> list[Point]:
    """Return a polygon in place of an ellipse.

    Args:
        center: its center.
        radii: half its width and its height, pixels, before it is turned.
        degrees: by which it is turned clockwise.
    """
    angles = [2 * math.pi * number / _CORNERS for number in range(_CORNERS)]
    (x, y), (wide, high) = center, radii
    points = [(x + wide * math.cos(angle), y + high * math.sin(angle)) for angle in angles]
    return [_turn(point, degrees, center) for point in points]


def _turn(point: Point, degrees: float, fixed: Point) -> Point:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, y = point[0] - fixed[0], point[1] - fixed[1]
    return fixed[0] + x * cosine - y * sine, fixed[1] + x * sine + y * cosine
