"""Draws the pre-training pictures and words their tasks in PaliGemma's prompt style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from glyphs import LETTERS, SHAPES, letter_mask, shape_mask
from PIL import Image, ImageFilter

SIDE = 56
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (40, 175, 60),
    "blue": (50, 90, 235),
    "yellow": (240, 220, 50),
    "orange": (245, 140, 30),
    "purple": (150, 50, 190),
    "pink": (245, 150, 195),
    "white": (245, 245, 245),
}
_BACKGROUNDS = ((0, 0, 0), (0, 0, 0), (25, 25, 35), (60, 60, 60), (120, 120, 120))
_LETTER_SHARE = 0.43
_SHAPE_SHARE = 0.05
_DETECT_SHARE = 0.36

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Example:
    """One picture with its prompt and its answer."""

    pixels: np.ndarray
    prefix: str
    suffix: str


@dataclass(frozen=True)
class Thing:
    """Something drawn on a canvas; `box` is (ymin, xmin, ymax, xmax) as fractions of the side."""

    name: str
    colour: str
    box: Box


def loc_text(box: Box) -> str:
    """Write a box as PaliGemma's four location tokens.

    Args:
        box: (ymin, xmin, ymax, xmax) as fractions of the picture.

    Returns:
        Four location tokens.
    """
    return "".join(f"<loc{min(1023, max(0, round(c * 1023))):04d}>" for c in box)


def _tint(rng: np.random.Generator, colour: Sequence[int], amount: float) -> np.ndarray:
    """Vary a colour a little.

    Args:
        rng: The source of randomness.
        colour: Red, green and blue, 0 to 255.
        amount: The spread in grey levels.

    Returns:
        The varied colour.
    """
    return np.clip(np.asarray(colour) + rng.normal(0, amount, 3), 0, 255)


def _scan(rng: np.random.Generator, mask: Image.Image, strength: float) -> np.ndarray:
    """Put ink on a square and look at it through a scanner of low resolution.

    Args:
        rng: The source of randomness.
        mask: The ink, cropped.
        strength: The range of sizes, places and blurs, 0 to 1.

    Returns:
        Ink coverage of the full picture, 0 to 1.
    """
    side = 96
    height = round(side * (1 - 0.3 * strength * rng.random() ** 2))
    stretch = 1 + rng.uniform(-0.25, 0.25) * strength
    width = max(8, min(side, round(height * mask.width / mask.height * stretch)))
    square = Image.new("L", (side, side))
    free = np.array([side - width, side - height]) / 2
    x, y = np.clip(free + rng.normal(0, 5, 2) * strength, 0, 2 * free).round().astype(int).tolist()
    square.paste(mask.resize((width, height), Image.Resampling.BILINEAR), (x, y))
    look = rng.random()
    if look < 0.6:
        cells = 8
    elif look < 0.75:
        cells = int(rng.integers(9, 20))
    else:
        cells = SIDE
    small = square.resize((cells, cells), Image.Resampling.BOX)
    if cells == 8:
        small = small.point([round(v / 255 * 16) * 255 // 16 for v in range(256)])
    large = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if cells == SIDE and rng.random() < 0.5 * strength:
        large = large.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 2.0))))
    return np.asarray(large, dtype=np.float32) / 255


def _ink_colours(rng: np.random.Generator, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Choose the colours of paper and ink; white on black is the most frequent look.

    Args:
        rng: The source of randomness.
        strength: The share of unusual colours, 0 to 1.

    Returns:
        The paper's and the ink's colour.
    """
    look = rng.random()
    white, black = np.full(3, 255.0), np.zeros(3)
    if look < 1 - 0.45 * strength:
        return black, white
    if look < 1 - 0.3 * strength:
        return _tint(rng, (30, 30, 30), 25), _tint(rng, (220, 220, 220), 30)
    if look < 1 - 0.15 * strength:
        return _tint(rng, (235, 235, 235), 20), _tint(rng, (30, 30, 30), 25)
    names = list(COLOURS)
    return _tint(rng, (20, 20, 25), 20), _tint(rng, COLOURS[names[rng.integers(len(names))]], 20)


def _finish(rng: np.random.Generator, picture: np.ndarray, strength: float) -> np.ndarray:
    """Add sensor noise and round to bytes.

    Args:
        rng: The source of randomness.
        picture: Colours, 0 to 255.
        strength: The range of the noise, 0 to 1.

    Returns:
        The picture as uint8, shape (side, side, 3).
    """
    if rng.random() < 0.3 * strength:
        picture = picture + rng.normal(0, rng.uniform(2, 14), picture.shape[:2])[..., None]
    return np.clip(picture.round(), 0, 255).astype(np.uint8)


def glyph_example(rng: np.random.Generator, strength: float, shapes: bool = False) -> Example:
    """Draw one letter, or one shape, that fills the picture.

    Args:
        rng: The source of randomness.
        strength: The range of the deformations, 0 to 1.
        shapes: Draw a shape instead of a letter.

    Returns:
        The picture with its question.
    """
    names = SHAPES if shapes else LETTERS
    name = names[rng.integers(len(names))]
    mask = (shape_mask if shapes else letter_mask)(rng, name, strength)
    paper, ink = _ink_colours(rng, strength)
    coverage = _scan(rng, mask, strength)[..., None]
    pixels = _finish(rng, paper + (ink - paper) * coverage, strength)
    return Example(pixels, f"answer en which {'shape' if shapes else 'letter'} is this?", name)


def _place(rng: np.random.Generator, taken: list[Box], size: tuple[int, int]) -> tuple[int, int] | None:
    """Find a free place on the canvas.

    Args:
        rng: The source of randomness.
        taken: Boxes that must stay free, in pixels.
        size: The height and width to place, in pixels.

    Returns:
        The top and left, or None where no place was found.
    """
    for _ in range(30):
        top = int(rng.integers(0, SIDE - size[0] + 1))
        left = int(rng.integers(0, SIDE - size[1] + 1))
        if all(
            top + size[0] + 1 <= y0 or y1 + 1 <= top or left + size[1] + 1 <= x0 or x1 + 1 <= left
            for y0, x0, y1, x1 in taken
        ):
            return top, left
    return None


def _thing_mask(
    rng: np.random.Generator, name: str, height: int, strength: float
) -> tuple[Image.Image, int]:
    """Draw a letter or a shape at its size on a canvas.

    Args:
        rng: The source of randomness.
        name: A letter or a shape.
        height: The height in pixels.
        strength: The range of the deformations, 0 to 1.

    Returns:
        The ink, and the width in pixels.
    """
    letter = name in LETTERS
    mask = (letter_mask if letter else shape_mask)(rng, name, strength)
    width = max(4, min(SIDE, round(height * mask.width / mask.height)))
    if letter and rng.random() < 0.5:
        cells = max(2, round(8 * mask.width / mask.height))
        mask = mask.resize((cells, 8), Image.Resampling.BOX)
        return mask.resize((width, height), Image.Resampling.BICUBIC), width
    return mask.resize((width, height), Image.Resampling.BOX), width


def draw_scene(
    rng: np.random.Generator, names: Sequence[str], sizes: tuple[int, int], strength: float
) -> tuple[np.ndarray, list[Thing]]:
    """Draw several things on a canvas, none over another.

    Args:
        rng: The source of randomness.
        names: What to draw; what finds no free place is left out.
        sizes: The least and the greatest height in pixels.
        strength: The range of the deformations, 0 to 1.

    Returns:
        The picture, and the things on it from left to right.
    """
    paper = _tint(rng, _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))], 6)
    picture = np.broadcast_to(paper, (SIDE, SIDE, 3)).copy()
    colours = list(COLOURS)
    plain = rng.random() < 0.5
    things: list[Thing] = []
    taken: list[Box] = []
    for name in names:
        height = int(rng.integers(sizes[0], sizes[1] + 1))
        mask, width = _thing_mask(rng, name, height, strength)
        place = _place(rng, taken, (height, width))
        if place is None:
            continue
        letter = name in LETTERS
        colour = "white" if letter and plain else colours[rng.integers(len(colours))]
        top, left = place
        taken.append((top, left, top + height, left + width))
        coverage = np.asarray(mask, dtype=np.float32)[..., None] / 255
        view = picture[top : top + height, left : left + width]
        view += (_tint(rng, COLOURS[colour], 10) - view) * coverage
        box = (top / SIDE, left / SIDE, (top + height) / SIDE, (left + width) / SIDE)
        things.append(Thing(name, colour, box))
    things.sort(key=lambda thing: thing.box[1])
    return _finish(rng, picture, strength), things


def detect_example(rng: np.random.Generator, strength: float, letters: bool) -> Example:
    """Ask for the boxes of letters or shapes.

    Args:
        rng: The source of randomness.
        strength: The range of the deformations, 0 to 1.
        letters: Draw letters instead of shapes.

    Returns:
        The picture; the answer lists the things from left to right.
    """
    names = LETTERS if letters else SHAPES
    count = int(rng.integers(1, 2 + round((2 if letters else 3) * strength)))
    chosen = [names[i] for i in rng.integers(0, len(names), count)]
    pixels, things = draw_scene(rng, chosen, (12, 30) if letters else (9, 24), strength)
    ask = rng.random()
    if ask < 0.35:
        word = "letter" if letters else "shape"
        return Example(pixels, f"detect {word}", _boxes([(t.box, word) for t in things]))
    asked = list(dict.fromkeys(t.name for t in things))
    rng.shuffle(asked)
    if ask < 0.6:
        asked = asked[:1]
    found = [(t.box, t.name) for t in things if t.name in asked]
    return Example(pixels, f"detect {' ; '.join(asked)}", _boxes(found))


def _boxes(found: Sequence[tuple[Box, str]]) -> str:
    """Write boxes with their names.

    Args:
        found: The boxes and names, in order.

    Returns:
        The answer to a detection prompt.
    """
    return " ; ".join(f"{loc_text(box)} {name}" for box, name in found)


def scene_example(rng: np.random.Generator, strength: float) -> Example:
    """Ask for a count, a colour or a caption of a scene of shapes.

    Args:
        rng: The source of randomness.
        strength: The range of the deformations, 0 to 1.

    Returns:
        The picture with its question.
    """
    task = rng.random()
    if task < 0.4:
        count = int(rng.integers(0, 10))
        names = [SHAPES[i] for i in rng.integers(0, len(SHAPES), count)]
        pixels, things = draw_scene(rng, names, (8, 16) if count < 6 else (8, 12), strength)
        return Example(pixels, "answer en how many shapes are there?", str(len(things)))
    names = [SHAPES[i] for i in rng.permutation(len(SHAPES))[: int(rng.integers(1, 4))]]
    pixels, things = draw_scene(rng, names, (12, 26), strength)
    if task < 0.7:
        thing = things[rng.integers(len(things))]
        return Example(pixels, f"answer en what colour is the {thing.name}?", thing.colour)
    phrases = [f"a{'n' if t.colour[0] == 'o' else ''} {t.colour} {t.name}" for t in things]
    return Example(pixels, "caption en", " and ".join(phrases))


def draw_example(rng: np.random.Generator, strength: float) -> Example:
    """Draw one example of the pre-training mixture.

    Args:
        rng: The source of randomness.
        strength: The range of the deformations, 0 to 1.

    Returns:
        The example.
    """
    task = rng.random() - _LETTER_SHARE
    if task < 0:
        return glyph_example(rng, strength)
    task -= _SHAPE_SHARE
    if task < 0:
        return glyph_example(rng, strength, shapes=True)
    if task < _DETECT_SHARE:
        return detect_example(rng, strength, letters=rng.random() < 0.6)
    return scene_example(rng, strength)
