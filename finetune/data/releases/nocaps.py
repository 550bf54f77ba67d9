"""NoCaps: captions of what COCO's captions do not name; to evaluate on.

Under `root`: `nocaps_val_4500_captions.json` and Open Images' photos in `validation/`.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import pick, read_json
from finetune.data.rows import text_features
from finetune.errors import UserError

SPLITS = ("val",)
FEATURES = text_features(lists=("captions",))


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield one row a photo with its ten captions; groups are the domains, where the file names them."""
    file = Path(root) / "nocaps_val_4500_captions.json"
    images, annotations = pick(read_json(file), str(file), "images", "annotations")
    captions: dict[int, list[str]] = defaultdict(list)
    for index, item in enumerate(annotations):
        with faults.skipping():
            image_id, caption = pick(item, f"{file}: annotations[{index}]", "image_id", "caption")
            captions[image_id].append(caption)
    for index, item in enumerate(images):
        where = f"{file}: images[{index}]"
        with faults.skipping():
            image_id, name = pick(item, where, "id", "file_name")
            if image_id not in captions:
                raise UserError(f"{where}: image {image_id} has no caption among the annotations.")
            yield {
                "id": str(image_id),
                "group": item.get("domain"),
                "image": resolve_image(name, Path(root) / "validation", where),
                "captions": captions[image_id],
            }
