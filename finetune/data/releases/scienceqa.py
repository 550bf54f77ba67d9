"""ScienceQA: multiple choice from school books; the questions that have an image.

Under `root`: `problems.json`, `pid_splits.json` and the images as `<split>/<number>/image.png`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import read_record
from finetune.data.reading.record import Record, describe_value, is_text
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("train", "val", "test")
FEATURES = text_features("question", "hint", lists=("choices",), numbers=("answer",))
NO_HINT = "N/A"
"""The prompt's hint for a question without one, as in the authors' code."""


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the problems of one split that have an image, in its order; groups are subjects."""
    folder = Path(root)
    file = folder / "problems.json"
    problems, splits = read_record(file), read_record(folder / "pid_splits.json")
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
