"""MMVP: pairs of pictures that CLIP takes for the same, one question each; to evaluate on.

Under `root`: `Questions.csv`, and the pictures in `MMVP Images/`, named after the questions' `Index`.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features, Value

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import pick
from finetune.data.rows import text_features
from finetune.errors import UserError

SPLITS = ("test",)
FEATURES = Features({**text_features("question", lists=("choices", "answers")), "answer": Value("int32")})
_OPTION = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", re.DOTALL)


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield one row a question; groups are the pairs, of which both must be right."""
    file = Path(root) / "Questions.csv"
    if not file.is_file():
        raise UserError(f"No file {file}.")
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, item in enumerate(csv.DictReader(lines), 1):
            where = f"{file}: question {number}"
            with faults.skipping():
                keys = ("Index", "Question", "Options", "Correct Answer")
                index, question, options, right = pick(item, where, *keys)
                choices = dict(_OPTION.findall(options or ""))
                letter = (right or "").strip(" ()").lower()
                if letter not in choices:
                    raise UserError(f"{where}: the right answer {right!r} is none of {options!r}.")
                yield {
                    "id": index,
                    "group": str((number + 1) // 2),
                    "image": resolve_image(f"{index}.jpg", Path(root) / "MMVP Images", where),
                    "question": question,
                    "choices": list(choices.values()),
                    "answers": [choices[letter]],
                    "answer": list(choices).index(letter),
                }
