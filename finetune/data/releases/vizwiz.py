"""VizWiz-VQA: questions that blind people asked about their photos, up to ten answers each.

Under `root`: `annotations/{train,val,test}.json`, and the photos in `train/`, `val/`, `test/`. An id is the
name of the photo, as on the challenge's server.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.reading.record import Record
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("train", "val", "test")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split, without empty answers; test has none."""
    folder = Path(root)
    for _, item in iterate_records(faults, folder / "annotations" / f"{split}.json"):
        with faults.skipping():
            yield {
                "id": item.text("image"),
                "group": item.optional_text("answer_type"),
                "image": resolve_image(item["image"], folder / split, item.where),
                "question": item.text("question"),
                "answers": [] if split == "test" else _drop_empty(item),
            }


def _drop_empty(item: Record) -> list[str]:
    answers = item.records("answers")
    texts = [answer.text("answer") for answer in answers if answer["answer"] != ""]
    if not texts:
        raise UserError(f"{item.where}: none of its {len(answers)} answers has any text.")
    return texts
