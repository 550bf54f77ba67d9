"""COCO captions in Karpathy's splits.

Under `root`: `dataset_coco.json` of `caption_datasets.zip`, and the photos in `train2014/`, `val2014/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features

SPLITS = ("train", "restval", "val", "test")
FEATURES = text_features(lists=("captions",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per photo with all of its captions, five or more."""
    file = Path(root) / "dataset_coco.json"
    for _, item in iterate_records(faults, file, "images"):
        with faults.skipping():
            if item.choice("split", SPLITS) == split:
                name = f"{item.text('filepath')}/{item.text('filename')}"
                yield {
                    "id": item.identifier("cocoid"),
                    "group": None,
                    "image": resolve_image(name, Path(root), item.where),
                    "captions": [sentence.text("raw") for sentence in item.records("sentences")],
                }
