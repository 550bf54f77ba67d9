"""ChartQA: questions about charts; the group is `human`, or `augmented` if a model wrote it.

Under `root`, which is the release's `ChartQA Dataset`: `{split}/{split}_human.json`,
`{split}/{split}_augmented.json` and `{split}/png/` for train, val and test.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features

SPLITS = ("train", "val", "test")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split, `human` first."""
    folder = Path(root) / split
    for source in ("human", "augmented"):
        for number, item in iterate_records(faults, folder / f"{split}_{source}.json"):
            with faults.skipping():
                yield {
                    "id": f"{source}-{number - 1}",
                    "group": source,
                    "image": resolve_image(item.text("imgname"), folder / "png", item.where),
                    "question": item.text("query"),
                    "answers": [item.text("label")],
                }
