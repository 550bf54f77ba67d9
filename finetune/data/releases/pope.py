"""POPE: whether a thing is in the image; evaluation only.

Under `root`: `coco_pope_<split>.json`, one JSON object per line, and COCO's photos in `val2014/`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.tables import read_json_lines
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

LABELS = ("yes", "no")
SPLITS = ("random", "popular", "adversarial")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per question; groups are the splits, which are scored separately and averaged."""
    file = Path(root) / f"coco_pope_{split}.json"
    for _, item in read_json_lines(faults, str(file)):
        with faults.skipping():
            if item.text("label").lower() not in LABELS:
                raise UserError(f"{item.where}: `label`: expected yes or no, got {item['label']!r:.60}.")
            yield {
                "id": f"{split}/{item.identifier('question_id')}",
                "group": split,
                "image": resolve_image(item.text("image"), Path(root) / "val2014", item.where),
                "question": item.text("text"),
                "answers": [item["label"]],
            }
