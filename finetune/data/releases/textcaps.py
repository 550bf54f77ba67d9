"""TextCaps: captions that name the text in an image.

Under `root`: `TextCaps_0.1_<split>.json`, and the images of both splits in `train_images/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("train", "val")
FEATURES = text_features(lists=("captions",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per image with all of its captions, each of which is a record of its own."""
    file = Path(root) / f"TextCaps_0.1_{split}.json"
    captions: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for _, item in iterate_records(faults, file, "data"):
        with faults.skipping():
            image_id, name, caption = map(item.text, ("image_id", "image_name", "caption_str"))
            if (names.setdefault(image_id, name), ids.setdefault(name, image_id)) != (name, image_id):
                raise UserError(
                    f"{item.where}: image {image_id} is `{name}` here, but before `{names[image_id]}` was "
                    f"{image_id}, or `{name}` was {ids[name]}."
                )
            captions.setdefault(image_id, []).append(caption)
    for image_id, texts in captions.items():
        with faults.skipping():
            where = f"{file}: image {image_id}"
            yield {
                "id": image_id,
                "group": None,
                "image": resolve_image(f"{names[image_id]}.jpg", Path(root) / "train_images", where),
                "captions": texts,
            }
