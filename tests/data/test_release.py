from pathlib import Path

import pytest
from datasets import Dataset

from finetune.data.published import Release
from finetune.data.release import select_split, split_names
from finetune.errors import UserError

ROWS = {"train": Dataset.from_dict({"n": range(10)}), "val": Dataset.from_dict({"n": range(100, 104)})}
NO_HUB = {"path": None}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("val", [100, 101, 102, 103]),
        ("train[:20%]", [0, 1]),
        ("train[-2:]+val[:1]", [8, 9, 100]),
        ("train[90%:] + val[2:]", [9, 102, 103]),
    ],
)
def test_a_split_is_named_sliced_and_summed(spec: str, expected: list[int]) -> None:
    assert select_split(ROWS, spec)["n"][:] == expected


def test_the_names_in_a_sum_are_found() -> None:
    assert split_names("train + val[:90%]+test") == ["train", "val", "test"]


def test_a_slice_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UserError, match=r"Split `train\[a:b\]`"):
        select_split(ROWS, "train[a:b]")


def test_an_unknown_release_or_split_lists_those_there_are(tmp_path: object) -> None:
    with pytest.raises(UserError, match=r"dataset.release=vqa2\. Did you mean `vqav2`\?"):
        Release("vqa2", train="train", validation="val").load()
    with pytest.raises(UserError, match=r"vqav2 has no split `dev`\..* It has: train, val"):
        Release("vqav2", str(tmp_path), "train", "dev").load()


def test_without_files_and_without_a_copy_the_folder_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"Where is vqav2\? Pass dataset.root=FOLDER"):
        Release("vqav2", train="train", validation="val").load()


def test_an_option_of_another_release_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"rsvqa has no option dataset.options.subsets; it has: numbers, subset"
    ):
        Release("rsvqa", str(tmp_path), "train", "val", options={"subsets": "lr"}).load()
    with pytest.raises(UserError, match=r"dataset.options.numbers=yes: expected true or false"):
        Release("rsvqa", str(tmp_path), "train", "val", options={"numbers": "yes"}).load()


def test_a_split_without_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "coco_pope_random.json").touch()
    with pytest.raises(UserError, match="pope in .*: the split `random` has no rows"):
        Release("pope", str(tmp_path), None, "random").load()
