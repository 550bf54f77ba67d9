"""GQA: questions composed from scene graphs; the group is their structure: query, verify, ...

Under `root`: `{split}_questions.json`, `train_all_questions/train_all_questions_{0..9}.json` and `images/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_json_object
from finetune.data.reading.record import Record
from finetune.data.rows import Row, text_features

SPLITS = ("train_balanced", "val_balanced", "testdev_balanced", "train_all", "val_all", "testdev_all")
FEATURES = text_features("question", lists=("answers",))

TRAIN_ALL_FILES = 10


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split."""
    folder = Path(root)
    files = [folder / f"{split}_questions.json"]
    if split == "train_all":
        parts = folder / "train_all_questions"
        files = [parts / f"train_all_questions_{part}.json" for part in range(TRAIN_ALL_FILES)]
    for file in files:
        for question_id, values in iterate_json_object(file):
            with faults.skipping():
                item = Record(values, f"{file}: question {question_id}")
                name = f"{item.identifier('imageId')}.jpg"
                types = item.record("types") if item.get("types") is not None else Record({}, item.where)
                yield {
                    "id": question_id,
                    "group": types.optional_text("structural"),
                    "image": resolve_image(name, folder / "images", item.where),
                    "question": item.text("question"),
                    "answers": [item.text("answer")],
                }
