"""POPE: whether a thing is in the picture; to evaluate on.

Under `root`: `coco_pope_<split>.json`, one JSON object a line, and COCO's photos in `val2014/`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import iterate_json_lines, pick
from finetune.data.rows import text_features

SPLITS = ("random", "popular", "adversarial")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield one row a question; groups are the splits, which are scored one by one and averaged."""
    for where, item in iterate_json_lines(Path(root) / f"coco_pope_{split}.json"):
        with faults.skipping():
            number, image, question, answer = pick(item, where, "question_id", "image", "text", "label")
            yield {
                "id": f"{split}/{number}",
                "group": split,
                "image": resolve_image(image, Path(root) / "val2014", where),
                "question": question,
                "answers": [answer],
            }
