"""AI2D: multiple choice on diagrams of school books.

Under `root`: `questions/`, `annotations/` and `images/` of `ai2d-all.zip`, and `ai2d_test_ids.csv`. Some
questions refer to letters that no file has: they are painted over the words of the diagram here.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

from finetune.data.images import Picture, encode_png, resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import open_text, read_record
from finetune.data.reading.record import Record, is_text
from finetune.data.rows import PICTURE, Row, text_features
from finetune.errors import UserError

SPLITS = ("train", "test")
FEATURES = text_features("question", lists=("choices",), numbers=("answer",), image=PICTURE)
LARGEST_LETTER = 100
"""Maximum font size of a letter, pixels."""


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions on the diagrams of one split; those of test are listed, train has the others."""
    folder = Path(root)
    with open_text(folder / "ai2d_test_ids.csv") as listed:
        test = set(listed.read().split())
    if not test or not all(name.isdigit() for name in test):
        raise UserError(f"{folder / 'ai2d_test_ids.csv'}: expected a number a line. Copy the file again.")
    files = sorted((folder / "questions").glob("*.json"))
    if not files:
        raise UserError(f"No files {folder / 'questions'}/*.json.")
    for file in files:
        if (file.name.split(".")[0] in test) == (split == "test"):
            with faults.skipping():
                yield from _read_diagram(faults, file, folder)


def _read_diagram(faults: Faults, file: Path, folder: Path) -> Iterator[Row]:
    diagram = read_record(file)
    name = diagram.text("imageName")
    lettered: bytes | None = None
    for text, values in diagram.record("questions").items():
        with faults.skipping():
            item = Record(values, f"{file}: question `{text}`")
            if not is_text(text):
                raise UserError(f"{item.where}: expected the text of a question as the key.")
            path = resolve_image(name, folder / "images", item.where)
            image: dict[str, Any] = {"bytes": None, "path": path}
            if item.boolean("abcLabel"):
                lettered = lettered or _paint_letters(path, folder / "annotations" / file.name)
                image = {"bytes": lettered, "path": None}
            choices = item.texts("answerTexts")
            yield {
                "id": item.identifier("questionId"),
                "group": None,
                "image": image,
                "question": text,
                "choices": choices,
                "answer": item.integer("correctAnswer", range(len(choices))),
            }


def _paint_letters(path: str, file: Path) -> bytes:
    """Return the image as PNG, a letter on white in place of each annotated text.

    Sizes as in big_vision `datasets/ai2d/ai2d.py`, which uses another font.
    """
    image = Picture(path, str(file)).load()
    draw = ImageDraw.Draw(image)
    for key, values in read_record(file).record("text").items():
        item = Record(values, f"{file}: text `{key}`")
        letter = item.text("replacementText")
        left, top, right, bottom = _read_rectangle(item, image.size)
        draw.rectangle((left, top, right, bottom), fill="white")
        _, _, wide, high = _load_font(LARGEST_LETTER).getbbox(letter)
        scale = min(1, (right - left) / max(wide, 1), (bottom - top) / max(high, 1))
        font = _load_font(max(1, int(LARGEST_LETTER * scale)))
        ink = font.getbbox(letter)
        middle = ((left + right - ink[0] - ink[2]) / 2, (top + bottom - ink[1] - ink[3]) / 2)
        draw.text(middle, letter, fill="black", font=font)
    return encode_png(image)


def _read_rectangle(item: Record, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return x_min, y_min, x_max, y_max of two opposite corners, pixels; they overlap the image.

    Args:
        item: the annotation of a text.
        size: width and height of the image, pixels.
    """
    corners = item.array("rectangle")
    points = [
        Record({"point": corner}, f"{item.where}: `rectangle`").numbers("point") for corner in corners
    ]
    if [len(point) for point in points] != [2, 2]:
        raise UserError(f"{item.where}: `rectangle`: expected two corners of x and y, got {corners!r:.60}.")
    (left, right), (top, bottom) = (sorted(side) for side in zip(*points, strict=True))
    if left >= size[0] or top >= size[1] or right <= 0 or bottom <= 0:
        raise UserError(
            f"{item.where}: `rectangle`: {corners} is outside the image of {size[0]} x {size[1]} pixels."
        )
    # Pillow cannot draw what is far outside the image, where it is not visible anyway.
    return max(left, -size[0]), max(top, -size[1]), min(right, 2 * size[0]), min(bottom, 2 * size[1])


@cache
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError("AI2D's letters need Pillow with FreeType: reinstall Pillow from its wheel.")
    return font
