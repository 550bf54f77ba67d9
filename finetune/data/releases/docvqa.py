"""DocVQA: questions on scanned pages, task 1 of the challenge.

Under `root`: `{train,val}_v1.0_withQT.json`, `test_v1.0.json`, and the pages in `train/documents/`,
`val/documents/`, `test/documents/`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features

SPLITS = ("train", "val", "test")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split; test has no answers."""
    folder, answered = Path(root), split != "test"
    file = folder / f"{split}_v1.0{'_withQT' if answered else ''}.json"
    return read_questions(faults, file, folder / split, "image", "", answered, key="questionId")


def read_questions(
    faults: Faults,
    file: Path,
    folder: Path,
    image: str,
    ending: str,
    answered: bool,
    key: str = "question_id",
    accept: Callable[[list[str]], list[str]] = list,
) -> Iterator[Row]:
    """Read the array `data` of a file, the layout of several benchmarks for text in images.

    Args:
        faults: what to do with a question that cannot be used.
        file: the questions.
        folder: where the images are.
        image: the key of an image's path in that folder.
        ending: appended to the path, such as `.jpg`.
        answered: whether the questions have `answers`.
        key: the key of a question's id.
        accept: turns the answers of a question into the accepted ones.
    """
    for _, item in iterate_records(faults, file, "data"):
        with faults.skipping():
            yield {
                "id": item.identifier(key),
                "group": None,
                "image": resolve_image(f"{item.text(image)}{ending}", folder, item.where),
                "question": item.text("question"),
                "answers": accept(item.texts("answers")) if answered else [],
            }
