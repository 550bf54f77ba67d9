"""COCO 2017: boxes and masks of eighty classes.

Under `root`: `annotations/instances_{train,val}2017.json`, and the photos in `train2017/`, `val2017/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.formats.coco import read_instances
from finetune.data.objects import object_features
from finetune.data.reading.faults import Faults
from finetune.data.rows import Row

SPLITS = ("train", "val")
FEATURES = object_features()


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per photo, also without objects; crowds are marked, and keep their masks."""
    folder = Path(root)
    file = folder / "annotations" / f"instances_{split}2017.json"
    return read_instances(faults, str(file), folder / f"{split}2017")
