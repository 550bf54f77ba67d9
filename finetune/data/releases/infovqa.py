"""InfographicVQA: questions on infographics, task 3 of the DocVQA challenge.

Under `root`: `infographicsVQA_train_v1.0.json`, `infographicsVQA_val_v1.0_withQT.json`,
`infographicsVQA_test_v1.0.json` and `images/`.
"""

from collections.abc import Iterable, Iterator
from itertools import permutations
from pathlib import Path

from finetune.data.reading.faults import Faults
from finetune.data.releases import docvqa
from finetune.data.rows import Row

SPLITS = ("train", "val", "test")
FEATURES = docvqa.FEATURES

MOST_ITEMS = 6
"""With more items only the given order is accepted, unlike in big_vision: ten have 3,628,800 orders."""


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield the questions of a split; test has no answers.

    The challenge accepts the items of an answer in any order, so `val` has all orders, as in big_vision.
    """
    folder = Path(root)
    file = folder / f"infographicsVQA_{split}_v1.0{'_withQT' if split == 'val' else ''}.json"
    return docvqa.read_questions(
        faults,
        file,
        folder / "images",
        "image_local_name",
        "",
        split != "test",
        key="questionId",
        accept=permute_items if split == "val" else list,
    )


def permute_items(answers: Iterable[str]) -> list[str]:
    """Return answers such as `a, b` with their items in every order, without duplicates."""
    orders: list[tuple[str, ...]] = []
    for answer in answers:
        items = answer.split(", ")
        orders += permutations(items) if len(items) <= MOST_ITEMS else [tuple(items)]
    return list(dict.fromkeys(", ".join(items) for items in orders))
