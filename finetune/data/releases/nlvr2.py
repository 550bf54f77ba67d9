"""NLVR2: sentences that are true or false of two photos.

Under `root`: `data/{train,dev,test1}.json`, one JSON object a line, and the photos in `images/<split>/`,
or in the numbered folders below it, as those of `train` are handed out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features, List, Value

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import iterate_json_lines, pick

SPLITS = ("train", "dev", "test1")
_TEXT = Value("string")
FEATURES = Features(
    {
        "id": _TEXT,
        "group": _TEXT,
        "images": List(_TEXT),
        "question": _TEXT,
        "answers": List(_TEXT),
    }
)


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield one row a sentence, with the left and the right photo; answers are `True` and `False`."""
    folder = Path(root) / "images" / split
    for where, item in iterate_json_lines(Path(root) / "data" / f"{split}.json"):
        with faults.skipping():
            identifier, sentence, label = pick(item, where, "identifier", "sentence", "label")
            numbered = folder / str(item.get("directory", ""))
            pair = identifier.rpartition("-")[0]
            yield {
                "id": identifier,
                "group": None,
                "images": [
                    resolve_image(f"{pair}-img{side}.png", numbered if numbered.is_dir() else folder, where)
                    for side in (0, 1)
                ],
                "question": sentence,
                "answers": [label],
            }
