"""COCO captions in Karpathy's splits.

Under `root`: `dataset_coco.json` of `caption_datasets.zip`, and the photos in `train2014/`, `val2014/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("train", "restval", "val", "test")
FEATURES = text_features(lists=("captions",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per photo with all of its captions, five or more."""
    file = Path(root) / "dataset_coco.json"
    for _, item in iterate_records(faults, file, "images"):
        with faults.skipping():
            if item.text("split") not in SPLITS:
                known = ", ".join(SPLITS)
                raise UserError(
                    f"{item.where}: `split`: expected one of {known}, got {item['split']!r:.60}."
                )
            if item["split"] == split:
                name = f"{item.text('filepath')}/{item.text('filename')}"
                yield {
                    "id": item.identifier("cocoid"),
                    "group": None,
                    "image": resolve_image(name, Path(root), item.where),
                    "captions": [sentence.text("raw") for sentence in item.records("sentences")],
                }
