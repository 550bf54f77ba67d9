from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.data.rows import Splits
from finetune.errors import UserError

BOX = "<bndbox><xmax>8</xmax><ymin>2</ymin><xmin>3</xmin><ymax>6</ymax></bndbox>"
SIZE = "<size><width>20</width><height>10</height><depth>3</depth></size>"


def thing(name: str = "cat", box: str = BOX, more: str = "") -> str:
    return f"<object><name>{name}</name>{more}{box}</object>"


def write(folder: Path, name: str, *objects: str, size: str = SIZE, head: str = "") -> None:
    folder.mkdir(exist_ok=True)
    text = f"{head}<annotation><filename>{name}.jpg</filename>{size}{''.join(objects)}</annotation>"
    (folder / f"{name}.xml").write_text(text)


@pytest.fixture
def root(pictures: Callable[..., Path]) -> Path:
    """The folders of VOC: a picture with two objects, and one with none."""
    root = pictures("JPEGImages/a.jpg", "JPEGImages/b.jpg")
    write(root / "Annotations", "a", thing(), thing("dog", more="<difficult>1</difficult>"))
    write(root / "Annotations", "b", size="")
    return root


def test_a_file_is_a_row_and_what_is_difficult_a_crowd(root: Path, load: Callable[..., Splits]) -> None:
    full, empty = load("voc", root).train
    cat, dog = full.pop("objects")
    image = str(root / "JPEGImages/a.jpg")
    assert full == {"id": "a", "group": None, "image": image, "width": 20, "height": 10}
    plain = {"iscrowd": 0, "area": None, "mask_rle": None}
    assert cat == {"label": "cat", "box_xyxy": [3.0, 2.0, 8.0, 6.0], **plain}
    assert (dog["label"], dog["iscrowd"]) == ("dog", 1)
    assert (empty["id"], empty["objects"], empty["width"]) == ("b", [], 20)


def test_a_list_names_the_pictures_of_a_split(root: Path, load: Callable[..., Splits]) -> None:
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("b\n\n")
    splits = load("voc", root, validation=str(root / "ImageSets/Main/val.txt"))
    assert (splits.train["id"][:], splits.validation["id"][:]) == (["a", "b"], ["b"])


def test_a_changed_annotation_is_read_again_under_a_list(root: Path, load: Callable[..., Splits]) -> None:
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    assert len(load("voc", root / "ImageSets/Main/train.txt").train[0]["objects"]) == 2
    write(root / "Annotations", "a", thing())
    assert len(load("voc", root / "ImageSets/Main/train.txt").train[0]["objects"]) == 1


def test_files_beside_the_pictures_are_read(
    pictures: Callable[..., Path], load: Callable[..., Splits]
) -> None:
    root = pictures("train/a.jpg")
    write(root / "train", "a", thing())
    assert load("voc", root / "train").train[0]["image"] == str(root / "train/a.jpg")


def test_an_image_that_is_named_without_its_ending_is_found(
    root: Path, load: Callable[..., Splits]
) -> None:
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace(".jpg<", "<"))
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/b.JPG")
    images = [str(root / "JPEGImages" / name) for name in ("a.jpg", "b.JPG")]
    assert load("voc", root).train["image"][:] == images


def test_vocs_own_coordinates_are_shifted_by_the_first_pixel(
    root: Path, load: Callable[..., Splits]
) -> None:
    row = load("voc", root, one_based=True).train[0]
    assert row["objects"][0]["box_xyxy"] == [2.0, 1.0, 8.0, 6.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(
            BOX.replace("8", "38").replace("3<", "33<"), "c.xml object 2: object `cat`: ", id="outside"
        ),
        pytest.param(BOX.replace("8", "1"), "is it inverted", id="inverted"),
        pytest.param(BOX.replace("8", "3"), "to have an area", id="empty"),
        pytest.param(BOX.replace("8", "nan"), "to be finite", id="not finite"),
        pytest.param(BOX.replace("8", "x"), "<bndbox><xmax> must be a number, got 'x'", id="no number"),
        pytest.param("", "c.xml object 2: no <bndbox><xmin>.", id="no box"),
    ],
)
def test_a_bad_object_is_named_or_left_out(
    root: Path, load_with_fault: Callable[..., Dataset], bad: str, message: str
) -> None:
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/c.jpg")
    (root / "Annotations/b.xml").unlink()
    write(root / "Annotations", "c", thing(), thing(box=bad))
    assert len(load_with_fault("voc", root, message)[1]["objects"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"size": SIZE.replace("20", "21")}, "expected an image of 21.0 x 10.0 pixels", id="size"
        ),
        pytest.param({"size": "<unclosed>"}, "b.xml: not an XML file of annotations: mismatched", id="xml"),
        pytest.param({"head": "<!DOCTYPE x [<!ENTITY y 'z'>]>"}, "document type", id="entities"),
    ],
)
def test_a_bad_file_is_named_or_left_out(
    root: Path, load_with_fault: Callable[..., Dataset], options: dict[str, Any], message: str
) -> None:
    write(root / "Annotations", "b", **options)
    assert load_with_fault("voc", root, message)["id"][:] == ["a"]


def test_annotation_and_picture_need_each_other(
    root: Path, load_with_fault: Callable[..., Dataset], pictures: Callable[..., Path]
) -> None:
    write(root / "Annotations", "c", thing())
    load_with_fault("voc", root, "c.xml: no image `c.jpg`")
    (root / "Annotations/c.xml").unlink()
    pictures("JPEGImages/d.jpg")
    assert load_with_fault("voc", root, f"d.jpg: no {root}/Annotations/d.xml")["id"][:] == ["a", "b"]


def test_a_list_elsewhere_is_refused(root: Path, load: Callable[..., Splits]) -> None:
    (root / "x/y/z").mkdir(parents=True)
    (root / "x/y/z/train.txt").write_text("a\n")
    with pytest.raises(UserError, match="no folder Annotations next to ImageSets"):
        load("voc", root / "x/y/z/train.txt")
