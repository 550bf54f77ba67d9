"""AI2D: multiple choice on diagrams of school books.

Under `root`: `questions/`, `annotations/` and `images/` of `ai2d-all.zip`, and `ai2d_test_ids.csv`. Some
questions speak of letters that stand in no file: they are painted over the diagram's own words here.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Features, Value
from PIL import ImageDraw, ImageFont

from finetune.data.faults import Faults
from finetune.data.images import encode_png, load_image, resolve_image
from finetune.data.json_files import pick, read_json
from finetune.data.rows import PICTURE, text_features
from finetune.errors import UserError

SPLITS = ("train", "test")
FEATURES = Features(
    {
        **text_features("question", lists=("choices",)),
        "image": PICTURE,
        "answer": Value("int32"),
    }
)
LARGEST_LETTER = 100
"""Font size in pixels that no letter exceeds, however large its rectangle."""


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Read every question of the diagrams of one split; test's are listed, train has the others."""
    folder = Path(root)
    listed = folder / "ai2d_test_ids.csv"
    if not listed.is_file():
        raise UserError(f"No file {listed}.")
    test = set(listed.read_text(encoding="utf-8-sig").split())
    files = sorted((folder / "questions").glob("*.json"))
    if not files:
        raise UserError(f"No files {folder / 'questions'}/*.json.")
    for file in files:
        if (file.name.split(".")[0] in test) == (split == "test"):
            yield from _read_diagram(faults, file, folder)


def _read_diagram(faults: Faults, file: Path, folder: Path) -> Iterator[dict[str, Any]]:
    name, asked = pick(read_json(file), str(file), "imageName", "questions")
    lettered: bytes | None = None
    for text, item in asked.items():
        where = f"{file}: question `{text}`"
        with faults.skipping():
            keys = ("questionId", "answerTexts", "correctAnswer", "abcLabel")
            question_id, choices, answer, has_letters = pick(item, where, *keys)
            image: dict[str, Any] = {"bytes": None, "path": resolve_image(name, folder / "images", where)}
            if has_letters:
                lettered = lettered or _paint_letters(image["path"], folder / "annotations" / file.name)
                image = {"bytes": lettered, "path": None}
            yield {
                "id": question_id,
                "group": None,
                "image": image,
                "question": text,
                "choices": choices,
                "answer": int(answer),
            }


def _paint_letters(image: str, file: Path) -> bytes:
    """Return the picture as PNG, a letter on white in place of each annotated text.

    Sizes as in big_vision `datasets/ai2d/ai2d.py`, whose font is another one.
    """
    picture = load_image(image, str(file))
    draw = ImageDraw.Draw(picture)
    (texts,) = pick(read_json(file), str(file), "text")
    for key, item in texts.items():
        corners, letter = pick(item, f"{file}: text {key}", "rectangle", "replacementText")
        (left, right), (top, bottom) = (sorted(side) for side in zip(*corners, strict=True))
        draw.rectangle((left, top, right, bottom), fill="white")
        _, _, wide, high = _load_font(LARGEST_LETTER).getbbox(letter)
        scale = min(1, (right - left) / max(wide, 1), (bottom - top) / max(high, 1))
        font = _load_font(max(1, int(LARGEST_LETTER * scale)))
        ink = font.getbbox(letter)
        middle = ((left + right - ink[0] - ink[2]) / 2, (top + bottom - ink[1] - ink[3]) / 2)
        draw.text(middle, letter, fill="black", font=font)
    return encode_png(picture)


@cache
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError("AI2D's letters need Pillow with FreeType: reinstall Pillow from its wheel.")
    return font
