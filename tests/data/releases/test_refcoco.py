import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.codecs.rle import decode_rle
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.options import OnError
from finetune.data.published import Release
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.objects import ObjectsOptions

FILES = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}


def write_set(root: Path, name: str, places: dict[int, str]) -> None:
    """One set whose photos lie in these splits: in each one object with two sentences."""
    references, images, annotations = [], [], []
    for number, split in places.items():
        sentences = [
            {"sent": f"thing {n}", "raw": f"Thing {n}!", "sent_id": n} for n in (number * 2, number * 2 + 1)
        ]
        ids = {"ann_id": number + 100, "image_id": number, "category_id": 17}
        references.append({**ids, "ref_id": number, "split": split, "sentences": sentences})
        images.append({"id": number, "width": 20, "height": 10})
        polygons = [[2, 1, 4, 1, 4, 5, 2, 5], [6, 1, 8, 1, 8, 5, 6, 5]]
        shape = {"bbox": [2, 1, 6, 4], "segmentation": polygons, "area": 16, "iscrowd": number % 2}
        annotations.append({**shape, "id": number + 100, "image_id": number, "category_id": 17})
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / FILES[name]).write_bytes(pickle.dumps(references, protocol=2))
    parts = {"images": images, "annotations": annotations, "categories": [{"id": 17, "name": "cat"}]}
    (folder / "instances.json").write_text(json.dumps(parts))


def write_release(root: Path) -> None:
    (root / "train2014").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 10)).save(root / f"train2014/COCO_train2014_{number:012d}.jpg")
    write_set(root, "refcoco", {0: "train", 1: "train", 2: "val", 3: "testA"})
    write_set(root, "refcoco+", {0: "train", 3: "train", 4: "testB"})
    write_set(root, "refcocog", {1: "test", 5: "train"})


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_release(tmp_path)
    return tmp_path


def load(root: Path, train: str | None, validation: str, on_error: str = "error") -> Splits:
    return Release("refcoco", str(root), train, validation, on_error=OnError(on_error)).load()


def test_a_row_is_a_sentence_with_its_object_and_mask(release: Path) -> None:
    splits = load(release, "refcoco_unc_train", "refcoco_unc_val + refcoco_unc_testA + refcocog_umd_test")
    assert splits.train["id"][:] == [f"refcoco_unc/{number}" for number in range(4)]
    assert splits.validation["group"][::2] == ["refcoco_unc_val", "refcoco_unc_testA", "refcocog_umd_test"]
    row: dict[str, Any] = splits.train[3]
    (found,) = row.pop("objects")
    assert row == {
        "id": "refcoco_unc/3",
        "group": "refcoco_unc_train",
        "image": str(release / "train2014/COCO_train2014_000000000001.jpg"),
        "expression": "thing 3",
        "width": 20,
        "height": 10,
    }
    mask = decode_rle(found.pop("mask_rle"), (10, 20))
    assert (mask.sum(), mask[2, 2], mask[2, 5], mask[2, 7]) == (16, True, False, True)
    assert found == {"label": "cat", "box_xyxy": [2.0, 1.0, 8.0, 5.0], "iscrowd": 0, "area": 16.0}


def test_the_union_to_train_on_has_no_photo_of_another_split(release: Path) -> None:
    rows = load(release, "combined_train", "refcoco_plus_unc_testB").train
    assert rows["id"][:] == [
        "refcoco_unc/0", "refcoco_unc/1", "refcoco_plus_unc/0", "refcoco_plus_unc/1",
        "refcocog_umd/10", "refcocog_umd/11",
    ]  # fmt: skip
    assert set(rows["group"]) == {"refcoco_unc_train", "refcoco_plus_unc_train", "refcocog_umd_train"}


def test_the_prompt_is_the_bare_expression(release: Path) -> None:
    task = ObjectsOptions("{expression}", write_label=False).build()
    example = ExampleDataset(load(release, None, "refcoco_unc_testA").validation, task, "validation")[0]
    assert (example.prefix, example.suffixes) == ("thing 6", ("<loc0102><loc0102><loc0512><loc0409>",))


def share_lists() -> list[Any]:
    """Forty lists that would be 10^40 texts, if anything copied or showed them."""
    values: Any = "x"
    for _ in range(40):
        values = [values] * 10
    return [{"sentences": values}]


class _Command:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\x80\x02]r\xff\xff\xff\xff.",
            "the split `refcoco_unc_val` has no rows",
        ),
        (b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little"), "not the pickle of the release"),
        (pickle.dumps([]) * 2, "there is data after its end"),
        (
            b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
            "reference 1: expected a JSON object, got list",
        ),
        (pickle.dumps(share_lists()), "reference 1: no `image_id`"),
        (pickle.dumps([_Command()]), r"it asks for \w+.mkdir"),
        (b"half", "not the pickle of the release"),
        (b"", "not the pickle of the release"),
        (pickle.dumps({}), "expected a list of references, got an object"),
        (pickle.dumps([{"image_id": 1}]), "reference 1: no `split`"),
    ],
    ids=[
        *("a huge number in the memo", "a huge length", "two pickles", "deep", "shared lists"),
        "command",
        "no pickle",
        "empty",
        "no list",
        "no split",
    ],
)
def test_a_pickle_is_refused_unless_it_holds_plain_references(
    release: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(release)
    (release / "refcoco" / FILES["refcoco"]).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(release, None, "refcoco_unc_val")
    assert not (release / "made-by-a-pickle").exists()


def test_text_of_python_2_is_read(release: Path) -> None:
    file = release / "refcoco" / FILES["refcoco"]
    written = pickle.dumps(pickle.loads(file.read_bytes()), protocol=0)
    old = written.replace(b"Vthing 4\n", b"S'th\\xefng 4'\n")
    assert old != written
    file.write_bytes(old)
    assert load(release, None, "refcoco_unc_val").validation["expression"][0] == "th\xefng 4"


def test_a_missing_photo_or_annotation_is_named_or_left_out(release: Path) -> None:
    (release / "train2014/COCO_train2014_000000000000.jpg").unlink()
    file = release / "refcoco/instances.json"
    file.write_text(file.read_text().replace('"id": 101', '"id": 201'))
    with pytest.raises(UserError, match="annotation 100: no image `COCO_train2014_000000000000.jpg`"):
        load(release, "refcoco_unc_train", "refcoco_unc_val")
    splits = load(release, "refcoco_unc_train", "refcoco_unc_val", "skip")
    assert (len(splits.train), len(splits.validation)) == (0, 2)
    assert "annotation 101 of image 1 is missing" in splits.skipped[1]
