import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.codecs.rle import decode_rle
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.objects import ObjectsOptions

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]


def write(root: Path, split: str, instances: dict[str, Any]) -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    file = root / f"annotations/instances_{split}2017.json"
    file.write_text(json.dumps(instances))
    return file


def write_release(root: Path) -> None:
    """In both splits a photo with a cat and a crowd, and one with nothing."""
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir()
        images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 20, "height": 10} for n in (8, 9)]
        for image in images:
            Image.new("RGB", (20, 10)).save(root / f"{split}2017/{image['file_name']}")
        cat = {"id": 5, "image_id": 8, "category_id": 17, "bbox": [2, 1, 6, 4], "iscrowd": 0, "area": 24.0}
        cat["segmentation"] = [[2, 1, 8, 1, 8, 5, 2, 5]]
        crowd = {
            "id": 6,
            "image_id": 8,
            "category_id": 1,
            "bbox": [10, 0, 10, 10],
            "iscrowd": 1,
            "area": 100,
        }
        crowd["segmentation"] = {"size": [10, 20], "counts": [100, 100]}
        parts = {"images": images, "annotations": [crowd, cat], "categories": CATEGORIES}
        write(root, split, parts)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, on_error: str = "error") -> Splits:
    return Release("coco_detection", str(root), "train", "val", on_error=OnError(on_error)).load()


def test_a_row_is_a_photo_with_its_objects_crowds_marked(release: Path) -> None:
    full, empty = load(release).train
    assert (empty["id"], empty["objects"]) == ("9", [])
    crowd, cat = full.pop("objects")
    assert full == {
        "id": "8",
        "group": None,
        "image": str(release / "train2017/000000000008.jpg"),
        "width": 20,
        "height": 10,
    }
    drawn = np.zeros((10, 20), bool)
    drawn[1:5, 2:8] = True
    assert np.array_equal(decode_rle(cat.pop("mask_rle"), (10, 20)), drawn)
    assert cat == {"label": "cat", "box_xyxy": [2.0, 1.0, 8.0, 5.0], "iscrowd": 0, "area": 24.0}
    assert (crowd["label"], crowd["iscrowd"]) == ("person", 1)
    assert decode_rle(crowd["mask_rle"], (10, 20))[:, 10:].all()


def test_the_answer_has_every_object_but_crowds(release: Path) -> None:
    task = ObjectsOptions("detect all classes", ["cat", "person"]).build()
    example = ExampleDataset(load(release).train, task, "train")[0]
    assert example.prefix == "detect all classes"
    assert example.suffixes == ("<loc0102><loc0102><loc0512><loc0409> cat",)
    assert len(example.target["objects"]) == 2


@pytest.mark.parametrize(
    ("part", "item", "message", "objects"),
    [
        ("annotations", {"id": 7, "image_id": 4, "category_id": 1, "bbox": [0, 0, 1, 1]}, "no image 4", 2),
        (
            "annotations",
            {"id": 7, "image_id": 8, "category_id": 4, "bbox": [0, 0, 1, 1]},
            "no category 4",
            2,
        ),
        (
            "annotations",
            {"id": 5, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]},
            "id 5 is duplicated",
            2,
        ),
        (
            "annotations",
            {"id": 7, "image_id": 8, "category_id": 1, "bbox": [2, 3, 4, 0]},
            "have an area",
            2,
        ),
        (
            "annotations",
            {"id": 7, "image_id": 8, "category_id": 1, "bbox": [2, 3, 4]},
            "box of four numbers",
            2,
        ),
        ("annotations", {"id": 7, "image_id": 8, "category_id": 1}, "no `bbox`; the keys are: id", 2),
        ("images", {"id": 8, "file_name": "x", "width": 1, "height": 1}, "id 8 is duplicated", 2),
        ("images", {"id": 4, "file_name": "x", "width": 1, "height": 1}, "image 4: no image `x`", 2),
    ],
)
def test_a_fault_is_named_or_left_out(
    release: Path, part: str, item: dict[str, Any], message: str, objects: int
) -> None:
    file = release / "annotations/instances_train2017.json"
    instances = json.loads(file.read_text())
    instances[part].append(item)
    write(release, "train", instances)
    with pytest.raises(UserError, match=f"instances_train2017.json: .*{message}"):
        load(release)
    splits = load(release, "skip")
    assert len(splits.skipped) == 1
    assert [len(found) for found in splits.train["objects"]] == [objects, 0]


def write_real_release(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Three photos as the split `val`; returns the annotations of one of them, two cats among these."""
    panoptic = json.loads((folder / "coco_panoptic/panoptic_coco_detection_format.json").read_text())
    cats: list[dict[str, Any]] = json.loads((folder / "coco_39769/coco_annotations.txt").read_text())
    (root / "val2017").mkdir()
    for picture in ("coco_panoptic/000000142238.jpg", "coco_panoptic/000000439180.jpg"):
        shutil.copy(folder / picture, root / "val2017")
    shutil.copy(folder / "coco_39769/000000039769.png", root / "val2017")
    image = {"id": 39769, "file_name": "000000039769.png", "width": 640, "height": 480}
    panoptic["images"].append(image)
    panoptic["annotations"] += cats
    write(root, "val", panoptic)
    return cats


@pytest.mark.parity
def test_real_photos_are_read_with_their_masks(tmp_path: Path, parity_data: Path) -> None:
    cats = write_real_release(tmp_path, parity_data / "images")
    rows = Release("coco_detection", str(tmp_path), None, "val").load().validation
    examples = ExampleDataset(rows, ObjectsOptions("detect").build(), "validation")
    assert rows["id"][:] == ["142238", "439180", "39769"]
    assert sum(len(objects) for objects in rows["objects"]) == 50 + len(cats)
    for index in range(3):
        example = examples[index]
        size = (rows[index]["height"], rows[index]["width"])
        assert example.images[0].size == size[::-1]
        for one in rows[index]["objects"]:
            assert decode_rle(one["mask_rle"], size).sum() == pytest.approx(one["area"], rel=0.03, abs=30)
