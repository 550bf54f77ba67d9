"""ST-VQA: questions on text in scenes, task 3 of the challenge; it has no validation split.

Under `root`: `train_task_3.json` and `train_images/`, `test_task_3.json` and `test_task3_images/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.reading.faults import Faults
from finetune.data.releases import docvqa
from finetune.data.rows import Row

SPLITS = ("train", "test")
FEATURES = docvqa.FEATURES


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split; test has no answers."""
    folder, train = Path(root), split == "train"
    images = folder / ("train_images" if train else "test_task3_images")
    return docvqa.read_questions(faults, folder / f"{split}_task_3.json", images, "file_path", "", train)
