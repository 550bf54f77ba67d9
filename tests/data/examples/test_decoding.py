from typing import Any

import pytest
from datasets import Dataset

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.decoding import decode_images, find_broken_images
from finetune.tasks.text import TextTask
from tests.conftest import noise_image


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_decoded_and_its_size_compared(tmp_path: Any, workers: int) -> None:
    for name in ("a.png", "b.png"):
        noise_image(0, 40, 40).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-1500])
    names = ["a.png", "b.png", "none.png", "a.png", "b.png"]
    sizes = [40, 40, 40, 39, None]
    columns = {
        "id": list("abcde"),
        "group": [None] * 5,
        "image": [str(tmp_path / name) for name in names],
        "width": sizes,
        "height": sizes,
        "answers": [["y"]] * 5,
    }
    examples = ExampleDataset(Dataset.from_dict(columns), TextTask("x", "answers"), "train")
    faults = find_broken_images(examples, workers)
    assert sorted(faults) == [1, 2, 3, 4]
    assert "cannot be decoded" in faults[1]
    assert "no image" in faults[2]
    assert "39 x 39" in faults[3]
    assert sorted(find_broken_images(examples, workers, range(0, 5, 3))) == [3]


@pytest.mark.parametrize("workers", [0, 2])
def test_fingerprints_are_equal_for_equal_pixels_only(tmp_path: Any, workers: int) -> None:
    names = ["a.png", "b.png", "c.bmp", "none.png"]
    for name, seed in zip(names[:3], (0, 1, 0), strict=True):
        noise_image(seed, 40, 30).save(tmp_path / name)
    columns = {
        "id": list("abcd"),
        "group": [None] * 4,
        "images": [[str(tmp_path / name), str(tmp_path / names[0])] for name in names],
        "answers": [["y"]] * 4,
    }
    examples = ExampleDataset(Dataset.from_dict(columns), TextTask("x", "answers"), "train")
    rows = list(decode_images(examples, [3, 0, 1, 2], workers, fingerprints=True))
    assert [row.row for row in rows] == [3, 0, 1, 2]
    assert rows[0].images == ()
    assert "no image" in str(rows[0].fault)
    first, second, third = (row.images[0] for row in rows[1:])
    assert first == third != second
    assert first.size == (30, 40)
    assert {row.images[1] for row in rows[1:]} == {first}
