"""DocVQA: questions on scanned pages, task 1 of the challenge.

Under `root`: `{train,val}_v1.0_withQT.json`, `test_v1.0.json`, and the pages in `train/documents/`,
`val/documents/`, `test/documents/`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import iterate_records
from finetune.data.rows import text_features

SPLITS = ("train", "val", "test")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the questions of a split; test has no answers.

    Raises:
        UserError: names the file and the item.
    """
    folder, answered = Path(root), split != "test"
    file = folder / f"{split}_v1.0{'_withQT' if answered else ''}.json"
    return read_questions(faults, file, folder / split, "{image}", answered, key="questionId")


def read_questions(
    faults: Faults, file: Path, folder: Path, image: str, answered: bool, key: str = "question_id"
) -> Iterator[dict[str, Any]]:
    """Read the array `data` of a file, as those who read text in pictures lay their questions out.

    Args:
        faults: what to do with a question that cannot be used.
        file: the questions.
        folder: where the pictures are.
        image: a picture's path in it, with the question's keys in braces.
        answered: whether the questions have `answers`.
        key: the one of a question's id.

    Raises:
        UserError: names the file and the item.
    """
    for item in iterate_records(file, "data"):
        with faults.skipping():
            yield {
                "id": str(item[key]),
                "group": None,
                "image": resolve_image(image.format_map(item), folder, item.where),
                "question": item["question"],
                "answers": item["answers"] if answered else [],
            }
