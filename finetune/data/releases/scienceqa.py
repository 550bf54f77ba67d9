"""ScienceQA: multiple choice from school books; the questions that have a picture.

Under `root`: `problems.json`, `pid_splits.json` and the pictures as `<split>/<number>/image.png`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features, Value

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import Record, describe_value, is_text, read_json
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
    problems = Record(read_json(file), str(file))
    splits = Record(read_json(folder / "pid_splits.json"), str(folder / "pid_splits.json"))
    for place, number in enumerate(splits.array(split), 1):
        with faults.skipping():
            if not is_text(number):
                shown = describe_value(number)
                raise UserError(f"{splits.where}: `{split}` item {place}: expected a text, got {shown}.")
            if number not in problems:
                raise UserError(f"{file}: no problem {number}, which pid_splits.json has in `{split}`.")
            item = Record(problems[number], f"{file}: problem {number}")
            if item["image"] is None:
                continue
            choices = item.texts("choices")
            if item["hint"] is None:
                raise UserError(f"{item.where}: `hint`: expected a text, which may be empty, got null.")
            yield {
                "id": number,
                "group": item.text("subject"),
                "image": resolve_image(f"{split}/{number}/{item.text('image')}", folder, item.where),
                "question": item.text("question"),
                "hint": item.optional_text("hint") or NO_HINT,
                "choices": choices,
                "answer": item.integer("answer", range(len(choices))),
            }
