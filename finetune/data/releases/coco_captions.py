"""COCO captions in Karpathy's splits.

Under `root`: `dataset_coco.json` of `caption_datasets.zip`, and the photos in `train2014/`, `val2014/`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import iterate_json_array, pick
from finetune.data.rows import text_features

SPLITS = ("train", "restval", "val", "test")
FEATURES = text_features(lists=("captions",))


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield one row a photo with all of its captions, five or more."""
    file = Path(root) / "dataset_coco.json"
    keys = ("split", "cocoid", "filepath", "filename", "sentences")
    for index, item in enumerate(iterate_json_array(file, "images")):
        where = f"{file}: images[{index}]"
        with faults.skipping():
            own, image_id, folder, name, sentences = pick(item, where, *keys)
            if own == split:
                yield {
                    "id": str(image_id),
                    "group": None,
                    "image": resolve_image(f"{folder}/{name}", Path(root), where),
                    "captions": [pick(sentence, where, "raw")[0] for sentence in sentences],
                }
