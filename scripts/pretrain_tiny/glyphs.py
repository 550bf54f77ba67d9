"""Draws letters and shapes as grey masks: own pen strokes, Pillow's bundled font, polygons.

No digit is ever drawn: reading digits is what the tuning of the base has to teach.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Each stroke lists points "xy" on a 0..8 grid, y downwards; "~" rounds the corners.
STROKES: dict[str, tuple[str, ...]] = {
    "A": ("08 40 88", "15 75"),
    "B": ("00 08", "~00 50 72 54 04", "~04 54 86 58 08"),
    "C": ("~71 40 12 04 16 48 77",),
    "D": ("00 08", "~00 40 72 76 48 08"),
    "E": ("70 00 08 78", "04 64"),
    "F": ("70 00 08", "04 64"),
    "G": ("~71 40 12 04 16 48 77", "44 74 78"),
    "H": ("00 08", "80 88", "04 84"),
    "I": ("40 48",),
    "J": ("~60 64 57 38 16", "30 80"),
    "K": ("00 08", "70 04 78"),
    "L": ("00 08 68",),
    "M": ("08 00 45 80 88",),
    "N": ("08 00 78 70",),
    "O": ("~40 12 04 16 48 76 84 72 40",),
    "P": ("00 08", "~00 50 72 54 04"),
    "Q": ("~40 12 04 16 48 76 84 72 40", "55 88"),
    "R": ("00 08", "~00 50 72 54 04", "34 78"),
    "S": ("~71 40 12 44 76 48 17",),
    "T": ("00 80", "40 48"),
    "U": ("~00 05 27 48 67 85 80",),
    "V": ("00 48 80",),
    "W": ("00 28 43 68 80",),
    "X": ("00 88", "80 08"),
    "Y": ("00 44 80", "44 48"),
    "Z": ("00 80 08 88",),
    "a": ("~71 40 12 04 16 48 76", "70 78"),
    "b": ("00 08", "~05 43 75 77 48 07"),
    "d": ("70 78", "~75 33 05 07 38 77"),
    "e": ("04 84", "~84 72 40 12 04 16 48 77"),
    "f": ("~70 40 22 28", "03 53"),
    "g": ("~71 40 12 03 25 55 73", "~70 76 48 17"),
    "h": ("00 08", "~05 33 64 76 78"),
    "m": ("00 08", "~03 20 42 48", "~43 60 82 88"),
    "n": ("00 08", "~03 30 61 73 78"),
    "q": ("~71 40 12 03 25 55 73", "70 78"),
    "r": ("00 08", "~04 20 50 71"),
    "t": ("~30 36 48 67", "02 62"),
}
LETTERS: tuple[str, ...] = tuple(STROKES)
SHAPES: tuple[str, ...] = (
    "circle", "square", "triangle", "cross", "star", "ring", "diamond", "heart",
)  # fmt: skip

_SIDE = 96
_CURVE_STEPS = 6


def _round_corners(points: np.ndarray) -> np.ndarray:
    """Run a Catmull-Rom curve through the points.

    Args:
        points: Control points, shape (n, 2).

    Returns:
        Points on the curve.
    """
    ahead = 2 * points[-1] - points[-2]
    behind = 2 * points[0] - points[1]
    p = np.vstack([behind, points, ahead])
    t = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i][:, None] for i in range(4))
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    return np.vstack([curve.reshape(-1, 2), points[-1:]])


def _affine(rng: np.random.Generator, strength: float) -> np.ndarray:
    """Draw a small rotation with a slant.

    Args:
        rng: The source of randomness.
        strength: 0 for the identity, 1 for the full range.

    Returns:
        A 2x2 matrix.
    """
    angle = rng.normal(0, math.radians(8)) * strength
    slant = rng.normal(0, 0.15) * strength
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, slant], [0.0, 1.0]])


def _pen_letter(rng: np.random.Generator, letter: str, strength: float) -> Image.Image:
    """Write a letter with a round pen.

    Args:
        rng: The source of randomness.
        letter: One of `LETTERS`.
        strength: How unsteady the hand is, 0 to 1.

    Returns:
        White ink on black, not cropped.
    """
    matrix = _affine(rng, strength)
    aspect = 0.62 + rng.uniform(-0.17, 0.2) * strength
    width = max(3, round(_SIDE * (0.13 + rng.uniform(-0.06, 0.09) * strength)))
    curves: list[np.ndarray] = []
    for stroke in STROKES[letter]:
        grid = np.array([[int(c) / 8 for c in xy] for xy in stroke.lstrip("~").split()])
        grid = grid + rng.normal(0, 0.045 * strength, grid.shape)
        points = _round_corners(grid) if stroke[0] == "~" else grid
        curves.append((points - 0.5) * [aspect, 1.0] @ matrix.T)
    everything = np.vstack(curves)
    low, high = everything.min(0), everything.max(0)
    scale = (_SIDE - width - 2) / max(*(high - low), 0.3)
    image = Image.new("L", (_SIDE, _SIDE))
    pen = ImageDraw.Draw(image)
    radius = width / 2
    for curve in curves:
        placed = (curve - (low + high) / 2) * scale + _SIDE / 2
        pen.line([tuple(p) for p in placed.tolist()], fill=255, width=width, joint="curve")
        for x, y in (placed[0].tolist(), placed[-1].tolist()):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return image


@lru_cache(maxsize=256)
def _font_letter_plain(letter: str, weight: int) -> Image.Image:
    """Set a letter in Pillow's bundled font.

    Args:
        letter: The letter.
        weight: Thickness added on each side of a stem, in pixels.

    Returns:
        White ink on black, not cropped.
    """
    image = Image.new("L", (_SIDE * 2, _SIDE * 2))
    font = ImageFont.load_default(_SIDE)
    ImageDraw.Draw(image).text(
        (_SIDE, _SIDE), letter, fill=255, font=font, anchor="mm", stroke_width=weight
    )
    return image


def _font_letter(rng: np.random.Generator, letter: str, strength: float) -> Image.Image:
    """Set a letter in the bundled font, turned, slanted and of any weight.

    Args:
        rng: The source of randomness.
        letter: One of `LETTERS`.
        strength: The range of the changes, 0 to 1.

    Returns:
        White ink on black, not cropped.
    """
    image = _font_letter_plain(letter, int(rng.integers(0, 1 + round(6 * strength))))
    if strength == 0:
        return image
    m = _affine(rng, strength)
    shift = _SIDE - m @ np.array([_SIDE, _SIDE])
    data = (m[0, 0], m[0, 1], shift[0], m[1, 0], m[1, 1], shift[1])
    return image.transform(image.size, Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR)


def letter_mask(rng: np.random.Generator, letter: str, strength: float) -> Image.Image:
    """Draw a letter, cropped to its ink.

    Args:
        rng: The source of randomness.
        letter: One of `LETTERS`.
        strength: The range of the deformations, 0 to 1.

    Returns:
        White ink on black.
    """
    draw = _pen_letter if rng.random() < 0.65 else _font_letter
    return _crop(draw(rng, letter, strength))


def _crop(image: Image.Image) -> Image.Image:
    """Crop a mask to its ink.

    Args:
        image: White ink on black.

    Returns:
        The smallest part that holds all ink.
    """
    box = image.point(lambda value: 255 if value > 100 else 0).getbbox()
    return image.crop(box) if box else image


def _polygon(shape: str) -> list[tuple[float, float]]:
    """List the corners of a shape around the origin, radius 1.

    Args:
        shape: A shape with corners, or the heart.

    Returns:
        Corner points, y downwards.
    """
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "triangle":
        return [(0, -0.9), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "diamond":
        return [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)]
    if shape == "cross":
        a, b = 0.3, 0.95
        return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
                (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]  # fmt: skip
    if shape == "star":
        radii = [1.0 if i % 2 == 0 else 0.42 for i in range(10)]
        return [
            (r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)
        ]
    turns = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17,
        )
        for t in turns
    ]


def shape_mask(rng: np.random.Generator, shape: str, strength: float) -> Image.Image:
    """Draw a filled shape, cropped to its ink.

    Args:
        rng: The source of randomness.
        shape: One of `SHAPES`.
        strength: The range of the rotation, 0 to 1.

    Returns:
        White ink on black.
    """
    image = Image.new("L", (_SIDE, _SIDE))
    pen = ImageDraw.Draw(image)
    centre, radius = _SIDE / 2, _SIDE * 0.47
    if shape in ("circle", "ring"):
        pen.ellipse((2, 2, _SIDE - 3, _SIDE - 3), fill=255)
        if shape == "ring":
            hole = radius * (0.6 + rng.uniform(-0.1, 0.1) * strength)
            pen.ellipse((centre - hole, centre - hole, centre + hole, centre + hole), fill=0)
        return _crop(image)
    angle = rng.uniform(-0.2, 0.2) * strength
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [
        (centre + 0.9 * radius * (cos * x - sin * y), centre + 0.9 * radius * (sin * x + cos * y))
        for x, y in _polygon(shape)
    ]
    pen.polygon(corners, fill=255)
    return _crop(image)
