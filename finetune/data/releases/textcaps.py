"""TextCaps: captions that name the text in a picture.

Under `root`: `TextCaps_0.1_<split>.json`, and the pictures of both splits in `train_images/`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import iterate_json_array, pick
from finetune.data.rows import text_features

SPLITS = ("train", "val")
FEATURES = text_features(lists=("captions",))


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield one row a picture with all of its captions, each of which is a record of its own."""
    file = Path(root) / f"TextCaps_0.1_{split}.json"
    captions: dict[tuple[str, str], list[str]] = {}
    for index, item in enumerate(iterate_json_array(file, "data")):
        with faults.skipping():
            keys = ("image_id", "image_name", "caption_str")
            image_id, name, caption = pick(item, f"{file}: data[{index}]", *keys)
            captions.setdefault((image_id, name), []).append(caption)
    for (image_id, name), texts in captions.items():
        with faults.skipping():
            where = f"{file}: image {image_id}"
            yield {
                "id": image_id,
                "group": None,
                "image": resolve_image(f"{name}.jpg", Path(root) / "train_images", where),
                "captions": texts,
            }
