"""MMVP: pairs of images that CLIP confuses, one question each; evaluation only.

Under `root`: `Questions.csv`, and the images in `MMVP Images/`, named after the questions' `Index`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.tables import read_records
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("test",)
FEATURES = text_features("question", lists=("choices", "answers"), numbers=("answer",))
_OPTION = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", re.DOTALL)


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per question; groups are the pairs, of which both must be right."""
    file = Path(root) / "Questions.csv"
    for _, item in read_records(faults, str(file)):
        with faults.skipping():
            index, options, right = item.text("Index"), item.text("Options"), item.text("Correct Answer")
            if not index.isascii() or not index.isdigit() or int(index) == 0:
                raise UserError(f"{item.where}: `Index`: expected a number from 1, got {index!r:.60}.")
            choices = dict(_OPTION.findall(options))
            letter = right.strip(" ()").lower()
            if letter not in choices or not all(choices.values()):
                raise UserError(f"{item.where}: the right answer {right!r} is none of {options!r}.")
            yield {
                "id": index,
                "group": str((int(index) + 1) // 2),
                "image": resolve_image(f"{index}.jpg", Path(root) / "MMVP Images", item.where),
                "question": item.text("Question"),
                "choices": list(choices.values()),
                "answers": [choices[letter]],
                "answer": list(choices).index(letter),
            }
