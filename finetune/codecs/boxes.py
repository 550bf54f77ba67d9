"""Labelled boxes as PaliGemma's text and back: `<locYMIN><locXMIN><locYMAX><locXMAX> label ; ...`.

A coordinate is one of 1,024 bins over the image's height or width, y before x. Bins are divided by
1023 both ways, so that `<loc1023>` is the far edge; readers that divide by 1024 shrink every box
towards the origin. Sixteen `<seg>` tokens after the four `<loc>` are a mask inside the box.

Source: big_vision `pp/proj/paligemma/segmentation.py` (order, rounding, divisor) and
`evaluators/proj/paligemma/transfers/segmentation.py` (reading); the PaliGemma report, section 3.2.5
(`" ; "` between objects). Neither has text of several objects with labels; that form is the one that
public readers of the published models accept.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

DIVISOR = 1023
"""Bin of the far edge; a few public readers and writers use 1024."""
CODES_PER_MASK = 16
CODES = 128
SEPARATOR = " ; "

_LAST_BIN = 1023
_LOC = r"<loc[0-9]*>?"  # also what is not a token, `<loc12>` or `<loc00`, so that it is reported
_SEG = r"<seg[0-9]*>?"
_RUN = re.compile(rf"(?:{_LOC})+")
_SPACED_RUN = re.compile(rf"(?:{_LOC}\s*)+")
_OBJECT = re.compile(rf"(?P<locs>(?:{_LOC}\s*)+)(?P<segs>(?:{_SEG}\s*)*)(?P<rest>.*)", re.DOTALL)
_OFFICIAL = re.compile(rf"((?:<loc[0-9]{{4}}>){{4}})((?:<seg[0-9]{{3}}>){{{CODES_PER_MASK}}})")
_BREAK = re.compile(r";|\n|<(?:bos|eos|pad)>")
_NOT_IN_LABEL = re.compile(rf"<loc|<seg|{_BREAK.pattern}")


@dataclass(frozen=True)
class _Kind:
    """What a run of tokens must be."""

    name: str
    thing: str
    count: int
    last: int
    written: re.Pattern[str]
    token: re.Pattern[str]


_LOCATION = _Kind("location", "box", 4, _LAST_BIN, re.compile(_LOC), re.compile(r"<loc([0-9]{4})>"))
_SEGMENTATION = _Kind(
    "segmentation", "mask", CODES_PER_MASK, CODES - 1, re.compile(_SEG), re.compile(r"<seg([0-9]{3})>")
)


@dataclass(frozen=True)
class TextObject:
    """One object as read from text."""

    label: str
    """Without the white space around it; empty where the text has none."""
    box_xyxy: tuple[float, float, float, float]
    """Pixels: x_min, y_min, x_max, y_max; may have no area."""
    codes: tuple[int, ...] | None
    """The sixteen mask codes, 0 to 127; None without a readable mask."""
    reordered: bool
    """The text had a maximum before its minimum; big_vision's evaluator calls such an answer invalid."""
    span: tuple[int, int]
    """Where the object is in the text: start and end, characters."""


@dataclass(frozen=True)
class Leftover:
    """A part of the text that is not an object, or not a mask."""

    text: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """All of a text: what was read, in its order, and what could not be."""

    objects: list[TextObject]
    leftovers: list[Leftover]


def encode_boxes(
    boxes_xyxy: np.ndarray,
    labels: Sequence[str],
    size: tuple[int, int],
    codes: Sequence[Sequence[int]] | None = None,
) -> str:
    """Write labelled boxes as one PaliGemma suffix.

    Args:
        boxes_xyxy: (N, 4) floats, pixels: x_min, y_min, x_max, y_max.
        labels: N class names, in the order of the boxes; an empty one leaves the location alone, as in
            referring expressions.
        size: image height and width, pixels.
        codes: (N, 16) mask codes, 0 to 127, written after each box.

    Returns:
        The objects joined by `" ; "`; an empty string when N is 0.

    Raises:
        ValueError: a box, a label or the codes cannot be written; the message names the row.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (len(labels), 4):
        expected = f"({len(labels)}, 4), one row per label"
        raise ValueError(f"Expected `boxes_xyxy` to be {expected}, but got {boxes.shape}.")
    check_boxes(boxes, size)
    for row, label in enumerate(labels):
        _check_label(row, label)
    locations = ["".join(f"<loc{bin_:04d}>" for bin_ in bins) for bins in bin_boxes(boxes, size)]
    masks = [""] * len(labels) if codes is None else _write_codes(codes, len(labels))
    objects = [
        f"{location}{mask} {label}".rstrip()
        for location, mask, label in zip(locations, masks, labels, strict=True)
    ]
    return SEPARATOR.join(objects)


def bin_boxes(boxes_xyxy: np.ndarray, size: tuple[int, int]) -> list[list[int]]:
    """Return each box's four bins, 0 to 1023: y_min, x_min, y_max, x_max.

    Halves round to even, as in TensorFlow; what is outside the image is clipped to its edge.

    Args:
        boxes_xyxy: (N, 4) floats, pixels.
        size: image height and width, pixels.
    """
    height, width = _check_size(size)
    relative = np.asarray(boxes_xyxy, dtype=np.float64) / (width, height, width, height)
    bins = np.clip(np.rint(relative * DIVISOR), 0, _LAST_BIN).astype(int)
    ordered: list[list[int]] = bins[:, [1, 0, 3, 2]].tolist()
    return ordered


def check_boxes(boxes_xyxy: np.ndarray, size: tuple[int, int], margin: float = 1.0) -> None:
    """Refuse boxes that cannot be meant.

    Args:
        boxes_xyxy: (N, 4) floats, pixels.
        size: image height and width, pixels.
        margin: pixels that an edge may be outside, because annotation files round.

    Raises:
        ValueError: a row is not finite, inverted, empty or outside the image; the message names it.
    """
    height, width = _check_size(size)
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"Expected `boxes_xyxy` to be (N, 4), but got {boxes.shape}.")
    for row, box in enumerate(boxes.tolist()):
        x_min, y_min, x_max, y_max = box
        inside = -margin <= x_min < width and -margin <= y_min < height
        inside = inside and 0 < x_max <= width + margin and 0 < y_max <= height + margin
        if not np.isfinite(box).all():
            expected = "to be finite"
        elif x_min > x_max or y_min > y_max:
            expected = "to be x_min, y_min, x_max, y_max (is it inverted, or x, y, width, height?)"
        elif x_min == x_max or y_min == y_max:
            expected = "to have an area"
        elif not inside:
            expected = f"to lie inside the picture, {width} wide and {height} high"
        else:
            continue
        raise ValueError(f"Expected row {row} of `boxes_xyxy` {expected}, but got {box}.")


def decode_boxes(text: str, size: tuple[int, int], divisor: int = DIVISOR) -> Reading:
    """Read the objects of an answer, and say what could not be read.

    Tolerated without a word: objects parted by a line or by `;` with or without spaces, or not parted at
    all; spaces between tokens; no label, or one without a space before it; `<bos>`, `<eos>` and `<pad>`;
    the prompt on a line of its own before the first object. Exchanged minima and maxima are put
    right and marked `reordered`. The same object twice stays twice.

    Args:
        text: what the model generated.
        size: image height and width, pixels.
        divisor: 1023, or 1024 for text that was written so.

    Returns:
        Objects and leftovers; each `<loc>` of the text is in one of them.

    Raises:
        ValueError: the size has no area.
    """
    _check_size(size)
    objects: list[TextObject] = []
    leftovers: list[Leftover] = []
    for start, end in _split(text):
        read, unread = _read_object(text, start, end, size, divisor)
        objects += read
        leftovers += unread
    return Reading(objects, leftovers)


def decode_official(text: str, size: tuple[int, int], divisor: int = DIVISOR) -> Reading:
    """Read the one object of an answer as big_vision's evaluator of masks does, or nothing.

    The answer must begin with four location tokens and sixteen of a mask, minima before maxima. What
    follows is ignored.

    Args:
        text: what the model generated.
        size: image height and width, pixels.
        divisor: 1023, or 1024 for text that was written so.
    """
    answer = read_official(text)
    if answer is None:
        return Reading([], [Leftover(text, "no box and mask at the start, minima before maxima")])
    bins, codes = answer
    box, _ = _place_box(bins, _check_size(size), divisor)
    span = (0, 4 * len("<loc0000>") + CODES_PER_MASK * len("<seg000>"))
    return Reading([TextObject("", box, codes, reordered=False, span=span)], [])


def read_official(text: str) -> tuple[list[int], tuple[int, ...]] | None:
    """Return the bins and codes that `decode_official` reads, or None where the answer is invalid."""
    match = _OFFICIAL.match(text)
    if match is None:
        return None
    bins, wrong_bin = _read_tokens(match[1], _LOCATION)
    codes, wrong_code = _read_tokens(match[2], _SEGMENTATION)
    if wrong_bin or wrong_code or bins[2] <= bins[0] or bins[3] <= bins[1]:
        return None
    return bins, tuple(codes)


def _split(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each object or stretch of other text, the prompt left out."""
    first, newline, rest = text.partition("\n")
    echoed = newline and "<loc" not in first and "<loc" in rest
    start = len(first) + 1 if echoed else 0
    ends = [match.span() for match in _BREAK.finditer(text, start)]
    for end, next_start in [*ends, (len(text), len(text))]:
        cuts = [start, *_starts(text, start, end), end]
        yield from pairwise(cuts)
        start = next_start


def _starts(text: str, start: int, end: int) -> Iterator[int]:
    """Yield where objects start that nothing parts from what is before them."""
    for run in _SPACED_RUN.finditer(text, start, end):
        groups = list(_RUN.finditer(text, *run.span()))
        boxes = all(len(re.findall(_LOC, group[0])) == 4 for group in groups)
        # `<loc>x4 <loc>x4` is two boxes; spaces anywhere else part nothing.
        yield from (group.start() for group in (groups if boxes else groups[:1]))


def _read_object(
    text: str, start: int, end: int, size: tuple[int, int], divisor: int
) -> tuple[list[TextObject], list[Leftover]]:
    """Read the text between start and end: at most one object, and what is not part of it."""
    part = text[start:end].strip()
    if not part:
        return [], []
    match = _OBJECT.fullmatch(part)
    if match is None:
        place = " before the segmentation tokens" if "<seg" in part else ""
        return [], [Leftover(part, f"no location tokens{place}")]
    bins, problem = _read_tokens(match["locs"], _LOCATION)
    if problem:
        return [], [Leftover(part, problem)]
    leftovers = []
    codes = None
    if match["segs"]:
        values, problem = _read_tokens(match["segs"], _SEGMENTATION)
        codes = None if problem else tuple(values)
        if problem:
            leftovers.append(Leftover(match["segs"].strip(), problem))
    label, seg, stray = match["rest"].partition("<seg")
    if seg:
        leftovers.append(
            Leftover(seg + stray, "segmentation tokens that do not follow the location tokens")
        )
    box, reordered = _place_box(bins, size, divisor)
    first = text.index(part, start)
    return [TextObject(label.strip(), box, codes, reordered, (first, first + len(part)))], leftovers


def _place_box(
    bins: list[int], size: tuple[int, int], divisor: int
) -> tuple[tuple[float, float, float, float], bool]:
    """Return the box of four bins in pixels, and whether a maximum stood before its minimum."""
    height, width = size
    (y_min, y_max), (x_min, x_max) = sorted(bins[::2]), sorted(bins[1::2])
    # Divided before it is multiplied, as in big_vision: masks are pasted at the truncated pixel.
    box = (
        x_min / divisor * width,
        y_min / divisor * height,
        x_max / divisor * width,
        y_max / divisor * height,
    )
    return box, bins != [y_min, x_min, y_max, x_max]


def _read_tokens(run: str, kind: _Kind) -> tuple[list[int], str]:
    """Return the numbers of a run of tokens, and what is wrong with it or an empty string."""
    words = kind.written.findall(run)
    if len(words) != kind.count:
        return [], f"{len(words)} {kind.name} tokens in a row, where {kind.count} make a {kind.thing}"
    numbers = []
    for word in words:
        match = kind.token.fullmatch(word)
        if match is None or int(match[1]) > kind.last:
            return [], f"`{word}` is not a {kind.name} token: they are 0 to {kind.last}"
        numbers.append(int(match[1]))
    return numbers, ""


def _write_codes(codes: Sequence[Sequence[int]], count: int) -> list[str]:
    if len(codes) != count:
        raise ValueError(f"Expected `codes` to have {count} rows, one per label, but got {len(codes)}.")
    for row, numbers in enumerate(codes):
        if len(numbers) != CODES_PER_MASK or not all(0 <= number < CODES for number in numbers):
            expected = f"{CODES_PER_MASK} numbers from 0 to {CODES - 1}"
            raise ValueError(f"Expected row {row} of `codes` to be {expected}, but got {list(numbers)}.")
    return ["".join(f"<seg{number:03d}>" for number in numbers) for numbers in codes]


def _check_label(row: int, label: str) -> None:
    match = _NOT_IN_LABEL.search(label)
    if match:
        raise ValueError(f"Expected row {row} of `labels` to be without {match[0]!r}, but got {label!r}.")
    if label != label.strip():
        raise ValueError(f"Expected row {row} of `labels` to be without outer spaces, but got {label!r}.")


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height <= 0 or width <= 0:
        raise ValueError(f"Expected `size` to be a height and width above 0, but got {size}.")
    return height, width
