"""NLVR2: sentences that are true or false of two photos.

Under `root`: `data/{train,dev,test1}.json`, one JSON object per line, and the photos in `images/<split>/`,
or in the numbered folders below it, as `train` is distributed.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.tables import read_json_lines
from finetune.data.rows import PATHS, Row, text_features

SPLITS = ("train", "dev", "test1")
LABELS = ("True", "False")
FEATURES = text_features("question", lists=("answers",), image=PATHS)


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per sentence, with the left and the right photo; answers are `True` and `False`."""
    folder = Path(root) / "images" / split
    file = Path(root) / "data" / f"{split}.json"
    for _, item in read_json_lines(faults, str(file)):
        with faults.skipping():
            pair = item.text("identifier").rpartition("-")[0]
            numbered = item.identifier("directory") if "directory" in item else ""
            name = f"{numbered}/{pair}" if numbered and (folder / numbered).is_dir() else pair
            yield {
                "id": item["identifier"],
                "group": None,
                "images": [resolve_image(f"{name}-img{side}.png", folder, item.where) for side in (0, 1)],
                "question": item.text("sentence"),
                "answers": [item.choice("label", LABELS)],
            }
