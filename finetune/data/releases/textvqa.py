"""TextVQA: questions on text in photos of Open Images, ten answers each.

Under `root`: `TextVQA_0.5.1_{train,val,test}.json`, `train_images/`, which also has the photos of val, and
`test_images/`. Photos are used as stored, some of them on their side.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.reading.faults import Faults
from finetune.data.releases import docvqa
from finetune.data.rows import Row

SPLITS = ("train", "val", "test")
FEATURES = docvqa.FEATURES


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split; test has no answers."""
    folder, answered = Path(root), split != "test"
    images = folder / ("train_images" if answered else "test_images")
    return docvqa.read_questions(
        faults, folder / f"TextVQA_0.5.1_{split}.json", images, "image_id", ".jpg", answered
    )
