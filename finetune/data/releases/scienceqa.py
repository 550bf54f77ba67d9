"""ScienceQA: multiple choice from school books; the questions that have a picture.

Under `root`: `problems.json`, `pid_splits.json` and the pictures as `<split>/<number>/image.png`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features, Value

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import pick, read_json
from finetune.data.rows import text_features
from finetune.errors import UserError

SPLITS = ("train", "val", "test")
FEATURES = Features({**text_features("question", "hint", lists=("choices",)), "answer": Value("int32")})
NO_HINT = "N/A"
"""What the prompt says where a question has no hint, as in the authors' own code."""


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Read the problems of one split in its order, but none without a picture; groups are subjects."""
    folder = Path(root)
    file = folder / "problems.json"
    problems = read_json(file)
    (numbers,) = pick(read_json(folder / "pid_splits.json"), str(folder / "pid_splits.json"), split)
    keys = ("question", "choices", "answer", "hint", "image", "subject")
    for number in numbers:
        with faults.skipping():
            if number not in problems:
                raise UserError(f"{file}: no problem {number}, which pid_splits.json has in `{split}`.")
            where = f"{file}: problem {number}"
            question, choices, answer, hint, image, subject = pick(problems[number], where, *keys)
            if image:
                yield {
                    "id": number,
                    "group": subject,
                    "image": resolve_image(f"{split}/{number}/{image}", folder, where),
                    "question": question,
                    "hint": hint or NO_HINT,
                    "choices": choices,
                    "answer": answer,
                }
