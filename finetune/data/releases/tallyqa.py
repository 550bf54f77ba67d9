"""TallyQA: counting questions; the group is `simple` or `complex`, given for test only.

Under `root`: `train.json`, `test.json`, the photos of COCO in `train2014/` and `val2014/`, and those of
Visual Genome in `VG_100K/` and `VG_100K_2/`. An id joins those of image and question.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features

SPLITS = ("train", "test")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split."""
    folder = Path(root)
    for _, item in iterate_records(faults, folder / f"{split}.json"):
        with faults.skipping():
            kind = None if split == "train" else "simple" if item.boolean("issimple") else "complex"
            yield {
                "id": f"{item.identifier('image_id')}-{item.identifier('question_id')}",
                "group": kind,
                "image": resolve_image(item.text("image"), folder, item.where),
                "question": item.text("question"),
                "answers": [str(item.integer("answer", range(10**6)))],
            }
