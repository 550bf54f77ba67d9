"""CountBenchQA: a counting question for each image of CountBench that is still available.

Under `root`: `train-*.parquet` of nielsr/countbench on the Hub, whose 540 rows lack 49 images, and
`countbench_paired_questions.json` of big_vision, with a question for each row. The one gray
image is left out too, as in big_vision.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_json_array
from finetune.data.reading.record import Record
from finetune.data.reading.tables import read_records
from finetune.data.rows import PICTURE, Row, text_features
from finetune.errors import UserError

SPLITS = ("test",)
FEATURES = text_features("question", lists=("answers",), image=PICTURE)


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions that have an image in color."""
    folder = Path(root)
    file = folder / "countbench_paired_questions.json"
    questions = list(iterate_json_array(file))
    tables = sorted(map(str, folder.glob("train-*.parquet")))
    if not tables:
        raise UserError(f"No train-*.parquet in {folder}.")
    counted = [row for table in tables for _, row in read_records(faults, table)]
    if len(questions) != len(counted):
        raise UserError(
            f"{file} has {len(questions)} questions for {len(counted)} images. "
            "Do the two files belong together?"
        )
    for index, (asked, row) in enumerate(zip(questions, counted, strict=True)):
        with faults.skipping():
            item = Record(asked, f"{file} item {index + 1}")
            if row["image"] is None:
                continue
            image = row.record("image")
            data = image["bytes"]
            if not isinstance(data, bytes):
                raise UserError(f"{image.where}: expected the bytes of an image, got {data!r:.60}.")
            if _is_gray(data, image.where):
                continue
            yield {
                "id": str(index),
                "group": None,
                "image": {"bytes": data, "path": None},
                "question": item.text("question"),
                "answers": [str(row.integer("number", range(10**6)))],
            }


def _is_gray(data: bytes, where: str) -> bool:
    """Return whether an image has one channel: big_vision leaves it out.

    Source: big_vision `datasets/countbenchqa/countbenchqa.py`.
    """
    try:
        with Image.open(BytesIO(data)) as header:
            return len(header.getbands()) == 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not an image that Pillow can read ({error}).") from error
