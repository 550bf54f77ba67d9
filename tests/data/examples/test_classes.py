from functools import partial
from typing import Any

import pytest
from datasets import Dataset, Features, Value

from finetune.data.examples.classes import expand_per_class, find_labels
from finetune.data.objects import object_features
from finetune.errors import UserError
from finetune.tasks.objects import ObjectsOptions


def rows(*labels: list[str], crowd: str = "") -> Dataset:
    features = Features({**object_features(), "image": Value("string")})
    items: list[dict[str, Any]] = [
        {
            "id": str(number),
            "group": None,
            "image": f"{number}.png",
            "width": 9,
            "height": 9,
            "objects": [
                {"label": label, "box_xyxy": [0, 0, 1, 1], "iscrowd": int(label == crowd), "area": None,
                 "mask_rle": None}
                for label in own
            ],
        }
        for number, own in enumerate(labels)
    ]  # fmt: skip
    return Dataset.from_list(items, features=features)


def test_classes_are_those_of_all_objects_but_crowds() -> None:
    assert find_labels(rows(["dog", "cat"], [], ["cat", "many"], crowd="many")) == ("cat", "dog")


def test_rows_without_objects_have_no_classes() -> None:
    with pytest.raises(UserError, match=r"column `objects`, which the data lack; they have: id\. Boxes"):
        find_labels(Dataset.from_dict({"id": ["0"]}))


def ask(labels: list[str], negatives: int | None) -> partial[list[str]]:
    options = ObjectsOptions(labels=labels, negatives=negatives or 0)
    return partial(options.ask_classes, training=negatives is not None)


def test_each_class_of_a_picture_is_a_row_of_its_own() -> None:
    asked = expand_per_class(rows(["dog", "cat", "cat"], ["ewe"]), ask(["cat", "dog", "ewe"], negatives=0))
    assert asked["id"][:] == ["0/cat", "0/dog", "1/ewe"]
    assert asked["label"][:] == asked["group"][:] == ["cat", "dog", "ewe"]
    assert len(asked[1]["objects"]) == 3


def test_absent_classes_are_asked_for_too_some_in_training_and_all_in_evaluation() -> None:
    labels = ["cat", "dog", "ewe", "fox"]
    some = expand_per_class(rows(["cat"], ["cat"]), ask(labels, negatives=1))
    assert len(some) == 4
    again = expand_per_class(rows(["cat"], ["cat"]), ask(labels, negatives=1))
    assert some["id"][:] == again["id"][:]
    every = expand_per_class(rows(["cat"], []), ask(labels, negatives=None))
    assert every["id"][:] == [f"{picture}/{label}" for picture in (0, 1) for label in labels]


def test_rows_of_ones_own_whose_groups_are_all_null_are_divided_too() -> None:
    own = Dataset.from_list([{"id": "0", "group": None, "objects": [{"label": "cat", "iscrowd": 0}]}])
    asked = expand_per_class(own, ask(["cat", "dog"], negatives=None))
    assert asked["group"][:] == ["cat", "dog"]
