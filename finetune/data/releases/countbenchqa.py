"""CountBenchQA: a counting question to each picture of CountBench that is still to be had.

Under `root`: `train-*.parquet` of nielsr/countbench on the Hub, whose 540 rows lack 49 pictures, and
`countbench_paired_questions.json` of big_vision, with a question to each row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image

from finetune.data.faults import Faults
from finetune.data.json_files import iterate_records
from finetune.data.rows import PICTURE, text_features
from finetune.errors import UserError

SPLITS = ("test",)
FEATURES = Features({**text_features("question", lists=("answers",)), "image": PICTURE})


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the questions that have a picture.

    Raises:
        UserError: a file is missing, or they are not of the same length.
    """
    folder = Path(root)
    file = folder / "countbench_paired_questions.json"
    questions = list(iterate_records(file))
    tables = sorted(map(str, folder.glob("train-*.parquet")))
    if not tables:
        raise UserError(f"No train-*.parquet in {folder}.")
    counted = Dataset.from_parquet(tables).cast_column("image", Image(decode=False))
    if len(questions) != len(counted):
        raise UserError(
            f"{file} has {len(questions)} questions for {len(counted)} pictures. "
            "Do the two files belong together?"
        )
    for index, (item, row) in enumerate(zip(questions, counted, strict=True)):
        with faults.skipping():
            if row["image"] is not None:
                yield {
                    "id": str(index),
                    "group": None,
                    "image": row["image"],
                    "question": item["question"],
                    "answers": [str(row["number"])],
                }
