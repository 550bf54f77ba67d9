from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.shipped.digits import load_digits
from finetune.errors import UserError
from finetune.tasks.mixture import PART
from finetune.tasks.text import TextTask
from tests.conftest import noise_image

VQA = TextTask("answer en {question}", "answers")


@pytest.fixture(scope="module")
def digits() -> ExampleDataset:
    return ExampleDataset(load_digits(56).train, VQA, "train")


def test_a_row_becomes_an_example_in_the_tasks_words(digits: ExampleDataset) -> None:
    example = digits[3, 0]
    assert example.prefix == "answer en which digit is this?"
    assert example.suffixes == (example.group,)
    assert example.epoch == 3
    assert example.images[0].mode == "RGB"


def test_a_blank_example_differs_in_its_pixels_alone(digits: ExampleDataset) -> None:
    seen, blank = digits[3], replace(digits, blank=True)[3]
    assert blank.images[0].getcolors() == [(56 * 56, (128, 128, 128))]
    assert replace(blank, images=seen.images) == seen


def test_an_evaluated_example_names_its_images_by_path_or_content(turned: Dataset) -> None:
    row = turned[0]
    assert ExampleDataset(turned, VQA, "validation")[0].image == row["image"]
    assert ExampleDataset(turned, VQA, "train", seed=0)[0].image is None
    digits = ExampleDataset(load_digits(56).validation, VQA, "validation")
    names = [digits[index].image for index in (0, 1, 0)]
    assert names[0] == names[2] != names[1]
    several = Dataset.from_list([{**row, "images": [row["image"], row["image"]]}]).remove_columns("image")
    assert ExampleDataset(several, VQA, "validation")[0].image == f"{row['image']}, {row['image']}"


def test_a_column_the_task_needs_is_missed_at_once(digits: ExampleDataset) -> None:
    with pytest.raises(
        UserError, match=r"column `text` .*the rows have: id, group, image, question, answers"
    ):
        ExampleDataset(digits.rows, TextTask("caption {text}", "answers"), "train")


def test_a_picture_that_has_become_a_link_names_split_and_row(tmp_path: Path) -> None:
    noise_image(0).save(tmp_path / "secret.png")
    (tmp_path / "x.png").symlink_to("secret.png")
    rows = {"id": ["q7"], "group": [None], "image": [str(tmp_path / "x.png")], "question": ["?"]}
    dataset = ExampleDataset(Dataset.from_dict({**rows, "answers": [["x"]]}), VQA, "train")
    with pytest.raises(UserError, match=r"train example `q7`: image .* has become a link to .*secret"):
        dataset[0]


def test_a_picture_that_is_broken_names_split_and_row(digits: ExampleDataset) -> None:
    rows = Dataset.from_dict(
        {"id": ["q7"], "group": [None], "image": ["nowhere.png"], "question": ["?"], "answers": [["x"]]}
    )
    with pytest.raises(UserError, match=r"validation example `q7`: no image `nowhere.png`"):
        ExampleDataset(rows, VQA, "validation")[0]


@pytest.fixture
def turned(tmp_path: Path) -> Dataset:
    """A 20 x 10 image whose EXIF mark stands it on its side, with a hidden red corner."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = Image.new("RGBA", (20, 10), (9, 9, 9, 255))
    pixels.putpixel((0, 0), (255, 0, 0, 0))
    pixels.save(tmp_path / "x.png", exif=exif)
    row = {"id": "q7", "group": None, "image": str(tmp_path / "x.png"), "question": "?", "answers": ["x"]}
    return Dataset.from_list([row])


def test_images_are_read_as_stored_where_big_vision_resizes_them(turned: Dataset) -> None:
    upright = ExampleDataset(turned, VQA, "train")[0]
    assert upright.images[0].size == (10, 20)
    assert upright.images[0].getpixel((9, 0)) == (255, 255, 255)
    assert upright.antialias
    stored = ExampleDataset(turned, VQA, "train", antialias={"": False}).select([0])[0]
    assert stored.images[0].size == (20, 10)
    assert stored.images[0].getpixel((0, 0)) == (255, 0, 0)
    assert not stored.antialias


def test_a_mixtures_parts_are_resized_each_in_its_way(turned: Dataset) -> None:
    rows = turned.map(lambda row: {PART: "b"})
    assert not ExampleDataset(rows, VQA, "train", antialias={"a": True, "b": False})[0].antialias


def test_boxes_of_an_image_that_is_stored_turned_are_refused_as_they_would_be_wrong(
    turned: Dataset,
) -> None:
    rows = turned.map(lambda row: {"objects": [{"label": "cat"}]})
    assert ExampleDataset(rows, VQA, "train")[0].images[0].size == (10, 20)
    with pytest.raises(UserError, match=r"train example `q7`: its image is stored turned .*resize=paper"):
        ExampleDataset(rows, VQA, "train", antialias={"": True})[0]
