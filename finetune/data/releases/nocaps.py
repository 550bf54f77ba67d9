"""NoCaps: captions of what COCO's captions do not name; to evaluate on.

Under `root`: `nocaps_val_4500_captions.json` and Open Images' photos in `validation/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import index_items, iterate_items, read_record
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("val",)
FEATURES = text_features(lists=("captions",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per photo with its ten captions; groups are the domains, if the file names them."""
    file = Path(root) / "nocaps_val_4500_captions.json"
    content = read_record(file)
    images = index_items(faults, content, "images")
    captions: dict[str, list[str]] = {image_id: [] for image_id in images}
    for item in iterate_items(faults, content, "annotations"):
        with faults.skipping():
            image_id = item.identifier("image_id")
            if image_id not in captions:
                raise UserError(f"{item.where}: there is no image {image_id} in `images`.")
            captions[image_id].append(item.text("caption"))
    for image_id, item in images.items():
        with faults.skipping():
            if not captions[image_id]:
                raise UserError(f"{item.where}: image {image_id} has no caption among the annotations.")
            yield {
                "id": image_id,
                "group": item.optional_text("domain"),
                "image": resolve_image(item.text("file_name"), Path(root) / "validation", item.where),
                "captions": captions[image_id],
            }
