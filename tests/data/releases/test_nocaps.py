import json
from pathlib import Path

import pytest
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask


def write_release(root: Path) -> None:
    (root / "validation").mkdir()
    images = [{"id": n, "file_name": f"f{n}.jpg", "domain": "near-domain"} for n in range(2)]
    del images[1]["domain"]
    for image in images:
        Image.new("RGB", (4, 4)).save(root / "validation" / str(image["file_name"]))
    annotations = [{"image_id": n % 2, "id": n, "caption": f"Caption {n}."} for n in range(20)]
    (root / "nocaps_val_4500_captions.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("nocaps", str(root), None, "val", on_error=OnError(on_error)).load()


def test_a_row_is_a_photo_with_ten_captions_and_its_domain(release: Path) -> None:
    splits = load(release)
    assert len(splits.train) == 0
    assert splits.validation["group"][:] == ["near-domain", None]
    assert splits.validation[0] == {
        "id": "0",
        "group": "near-domain",
        "image": str(release / "validation/f0.jpg"),
        "captions": [f"Caption {number}." for number in range(0, 20, 2)],
    }
    example = ExampleDataset(splits.validation, TextTask("caption en", "captions"), "validation")[1]
    assert (example.prefix, example.suffixes[0]) == ("caption en", "Caption 1.")


def test_a_photo_without_captions_is_named_or_left_out(release: Path) -> None:
    file = release / "nocaps_val_4500_captions.json"
    content = json.loads(file.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 1]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="`images` item 2: image 1 has no caption"):
        load(release)
    splits = load(release, "skip")
    assert (len(splits.validation), len(splits.skipped)) == (1, 1)


def test_a_caption_of_no_image_is_named_or_left_out(release: Path) -> None:
    file = release / "nocaps_val_4500_captions.json"
    file.write_text(file.read_text().replace('"image_id": 1, "id": 3', '"image_id": 7, "id": 3'))
    with pytest.raises(UserError, match="`annotations` item 4: there is no image 7"):
        load(release)
    splits = load(release, "skip")
    assert [len(texts) for texts in splits.validation["captions"]] == [10, 9]
    assert len(splits.skipped) == 1
