"""A-OKVQA: ten direct answers and four choices per question.

Under `root`: `aokvqa_v1p0_{train,val,test}.json`, and the photos of COCO in `train2017/`, `val2017/`,
`test2017/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features

SPLITS = ("train", "val", "test")
FEATURES = text_features("question", lists=("answers", "choices"), numbers=("answer",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split; test has no answers."""
    folder, answered = Path(root), split != "test"
    for _, item in iterate_records(faults, folder / f"aokvqa_v1p0_{split}.json"):
        with faults.skipping():
            name = f"{item.integer('image_id', range(10**12)):012d}.jpg"
            choices = item.texts("choices")
            yield {
                "id": item.identifier("question_id"),
                "group": None,
                "image": resolve_image(name, folder / f"{split}2017", item.where),
                "question": item.text("question"),
                "answers": item.texts("direct_answers") if answered else [],
                "choices": choices,
                "answer": item.integer("correct_choice_idx", range(len(choices))) if answered else None,
            }
