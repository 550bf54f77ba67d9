"""OK-VQA: questions that need outside knowledge, ten answers each; the group is its category.

Under `root`: `OpenEnded_mscoco_{train,val}2014_questions.json`, `mscoco_{train,val}2014_annotations.json`,
and the photos of COCO in `train2014/` and `val2014/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.reading.faults import Faults
from finetune.data.releases import vqav2
from finetune.data.rows import Row

SPLITS = ("train", "val")
FEATURES = vqav2.FEATURES


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split."""
    folder, subset = Path(root), f"{split}2014"
    return vqav2.read_questions(
        faults,
        str(folder / f"OpenEnded_mscoco_{subset}_questions.json"),
        str(folder / f"mscoco_{subset}_annotations.json"),
        str(folder / subset),
        subset=subset,
        group="question_type",
    )
