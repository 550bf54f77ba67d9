from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from finetune.codecs.rle import decode_rle
from finetune.data.rows import Splits
from finetune.errors import UserError

NAMES = "names: [cat, no, dog]\n"
OWN = {"validation": None}
"""The validation split is that of the same file."""


def label(root: Path, name: str, *lines: str) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines))
    return root / name


@pytest.fixture
def data(pictures: Callable[..., Path]) -> Path:
    """A data.yaml with two pictures to train on, one without a text file, and one to evaluate on."""
    root = pictures("images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg")
    label(root, "labels/train/a.txt", "2 0.5 0.5 0.5 0.4", "", "1 0.1 0.1 0.4 0.1 0.4 0.6 0.1 0.6")
    label(root, "labels/val/c.txt", "0 0.5 0.5 1 1")
    return label(root, "data.yaml", "train: images/train", "val: images/val", NAMES)


def test_boxes_and_polygons_become_objects_in_pixels(data: Path, load: Callable[..., Splits]) -> None:
    splits = load("yolo", data, **OWN)
    full, empty = splits.train
    dog, polygon = full.pop("objects")
    image = str(data.parent / "images/train/a.jpg")
    assert full == {"id": "images/train/a.jpg", "group": None, "image": image, "width": 20, "height": 10}
    plain = {"iscrowd": 0, "area": None}
    assert dog == {"label": "dog", "box_xyxy": [5.0, 3.0, 15.0, 7.0], "mask_rle": None, **plain}
    assert (polygon["label"], polygon["box_xyxy"]) == ("no", [2.0, 1.0, 8.0, 6.0])
    assert decode_rle(polygon["mask_rle"], (10, 20))[1:6, 2:8].all()
    assert (empty["id"], empty["objects"]) == ("images/train/b.jpg", [])
    assert splits.validation["id"][:] == ["images/val/c.jpg"]


def test_a_share_may_be_held_out_where_there_is_no_val(data: Path, load: Callable[..., Splits]) -> None:
    data.write_text(f"train: images/train\n{NAMES}")
    with pytest.raises(UserError, match=r"data.yaml: no `val`; the keys are: train, names.*_fraction=0.1"):
        load("yolo", data, **OWN)
    splits = load("yolo", data, validation=None, validation_fraction=0.5)
    assert (len(splits.train), len(splits.validation)) == (1, 1)


def test_another_file_may_name_the_validation_split(data: Path, load: Callable[..., Splits]) -> None:
    other = label(data.parent, "other.yaml", "val: images/train", "names: {0: a, 1: b, 2: c}")
    splits = load("yolo", data, validation=str(other))
    assert splits.validation[0]["objects"][0]["label"] == "c"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("train: ./images/train\nval: [images/val]", id="list"),
        pytest.param("path: ROOT\ntrain: images/train\nval: images/val", id="path"),
        pytest.param("path: elsewhere\ntrain: images/train\nval: images/val", id="path that is not there"),
        pytest.param("train: ../images/train\nval: ../images/val", id="one folder too high"),
        pytest.param(
            "train: /home/ann/set/images/train\nval: /home/ann/set/images/val", id="another machine"
        ),
        pytest.param("train: D:\\set\\images\\train\nval: D:\\set\\images\\val", id="Windows"),
        pytest.param("train: lists/train.txt\nval: images/val", id="text file"),
    ],
)
def test_folders_are_found_however_they_are_written(
    data: Path, load: Callable[..., Splits], text: str
) -> None:
    root = data.parent
    label(root, "lists/train.txt", str(root / "images/train/a.jpg"), "/home/ann/images/train/b.jpg")
    data.write_text(f"{text.replace('ROOT', str(root))}\n{NAMES}")
    splits = load("yolo", data, **OWN)
    assert [len(objects) for objects in splits.train["objects"]] == [2, 0]
    assert len(splits.validation) == 1


def test_the_folders_of_an_export_hold_images_and_labels(
    pictures: Callable[..., Path], load: Callable[..., Splits]
) -> None:
    root = pictures("train/images/x_jpg.rf.0a.jpg", "valid/images/y.jpg")
    label(root, "train/labels/x_jpg.rf.0a.txt", "0 0.5 0.5 1 1")
    label(root, "valid/labels/y.txt", "0 0.5 0.5 1 1")
    label(root, "data.yaml", "train: ../train/images", "val: ../valid/images", NAMES)
    splits = load("yolo", root, **OWN)
    assert [len(rows[0]["objects"]) for rows in (splits.train, splits.validation)] == [1, 1]


def test_paths_of_another_machine_say_what_to_do(
    data: Path, tmp_path_factory: pytest.TempPathFactory, load: Callable[..., Splits]
) -> None:
    elsewhere = label(
        tmp_path_factory.mktemp("x"), "data.yaml", "path: /home/ann", "train: images/train", NAMES
    )
    with pytest.raises(UserError, match=r"`train`: no folder or list `images/train`.*dataset.image_dir="):
        load("yolo", elsewhere, validation=str(data))
    splits = load("yolo", elsewhere, validation=str(data), image_dir=str(data.parent))
    assert len(splits.train) == 2


def test_two_splits_are_not_taken_for_one_by_their_last_name(
    pictures: Callable[..., Path], load: Callable[..., Splits]
) -> None:
    root = pictures("images/a.jpg")
    label(root, "labels/a.txt", "0 0.5 0.5 1 1")
    label(root, "data.yaml", "train: /x/train/images", "val: /x/valid/images", NAMES)
    with pytest.raises(UserError, match="no folder or list"):
        load("yolo", root, **OWN)


def test_a_changed_text_file_is_read_again(data: Path, load: Callable[..., Splits]) -> None:
    assert len(load("yolo", data, **OWN).train[0]["objects"]) == 2
    label(data.parent, "labels/train/a.txt", "2 0.5 0.5 0.5 0.4")
    assert len(load("yolo", data, **OWN).train[0]["objects"]) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("0 1.9 0.5 0.5 0.4", "a.txt line 2: object `cat`: ", id="outside"),
        pytest.param("0 0.5 0.5 -0.5 0.4", "is it inverted", id="inverted"),
        pytest.param("0 0.5 0.5 0 0.4", "to have an area", id="empty"),
        pytest.param("0 nan 0.5 0.5 0.4", "to be finite", id="not finite"),
        pytest.param("0 0.1 0.1 0.4 nan 0.4 0.6", "finite", id="polygon not finite"),
        pytest.param("3 0.5 0.5 0.5 0.4", "no class 3 in the list. It has: 0 (cat), 1 (no)", id="class"),
        pytest.param("0 0.1 0.1 0.4", "got 3 numbers", id="three numbers"),
        pytest.param("0 0.1 0.1 0.4 0.1 0.4 0.6 0.1", "got 7 numbers", id="half a point"),
        pytest.param("cat 0.1 0.1 0.4 0.1", "expected a class number", id="name"),
    ],
)
def test_a_bad_line_is_named_or_left_out(
    data: Path, load_with_fault: Callable[..., Dataset], line: str, message: str
) -> None:
    label(data.parent, "labels/train/a.txt", "2 0.5 0.5 0.5 0.4", line)
    data.write_text(f"train: images/train\nval: images/train\n{NAMES}")
    assert len(load_with_fault("yolo", data, message)[0]["objects"]) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/train/a.jpg", "images/train/z.jpg"], "list.txt line 2: no image `images/train/z.jpg`"),
        (["images/train/a.jpg", "./images/train/a.jpg"], "id `images/train/a.jpg` is duplicated"),
        (["images/train/a.jpg", __file__], "test_yolo.py` is outside"),
    ],
)
def test_a_bad_picture_of_a_list_is_named_or_left_out(
    data: Path, load_with_fault: Callable[..., Dataset], names: list[str], message: str
) -> None:
    label(data.parent, "list.txt", *names)
    data.write_text(f"train: list.txt\nval: list.txt\n{NAMES}")
    assert load_with_fault("yolo", data, message)["id"][:] == ["images/train/a.jpg"]


def test_a_text_file_without_its_picture_is_named_or_left_out(
    data: Path, load_with_fault: Callable[..., Dataset]
) -> None:
    label(data.parent, "labels/train/z.txt", "0 0.5 0.5 1 1")
    label(data.parent, "labels/train/classes.txt", "cat")
    data.write_text(f"train: images/train\nval: images/train\n{NAMES}")
    assert len(load_with_fault("yolo", data, "z.txt: no image belongs to this text file")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nval: images/val", "no `names`; the keys are: train, val"),
        (
            "train: images/train\nval: images/val\nnames: {a: cat}",
            "`names` must be a list, or `number: name`",
        ),
        (f"val: images/val\n{NAMES}", "no `train`; the keys are: val, names"),
        ("train: [", "not YAML"),
        ("cat", "expected a data.yaml"),
    ],
)
def test_a_data_yaml_that_lacks_something_is_refused(
    data: Path, load: Callable[..., Splits], text: str, message: str
) -> None:
    data.write_text(text)
    with pytest.raises(UserError, match=f"data.yaml: {message}"):
        load("yolo", data, **OWN)


def test_pictures_of_which_none_has_a_text_file_are_refused(
    data: Path, load: Callable[..., Splits]
) -> None:
    (data.parent / "labels").rename(data.parent / "texts")
    with pytest.raises(UserError, match=r"none of 2 images has a text file .*labels/train/a.txt"):
        load("yolo", data, **OWN, on_error="skip")
