"""Faults that are planted in made data: each is found, with its file and its line or item."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import finetune
from finetune.cli import main
from finetune.example import RowFinding
from tests.conftest import break_inside, noise_image

Command = Callable[..., tuple[int, str, str]]

OPTIONS = ["model=tiny", "examples=2"]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in this process: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(list(words))
        except SystemExit as stopped:
            code = int(str(stopped.code))
        return code, *capsys.readouterr()

    return run


def photo(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture with structure that no two seeds share."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)


def write_lines(file: Path, rows: Sequence[bytes | dict[str, Any]]) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    file.write_bytes(b"\n".join(lines) + b"\n")


def ask(image: str, **values: object) -> dict[str, Any]:
    return {"image": image, "prefix": "what is it?", "suffix": f"thing {image}", **values}


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Two clean files of questions about images, and the words that preview them."""
    for number in range(40):
        photo(number).save(tmp_path / f"{number}.jpg")
    write_lines(tmp_path / "train.jsonl", [ask(f"{number}.jpg") for number in range(32)])
    write_lines(tmp_path / "valid.jsonl", [ask(f"{number}.jpg") for number in range(32, 40)])
    return words_of(tmp_path, "train.jsonl")


def words_of(folder: Path, train: str) -> list[str]:
    files = [f"dataset.train={folder}/{train}", f"dataset.validation={folder}/valid.jsonl"]
    out = f"out={folder}/preview"
    return ["recipe=jsonl_qlora", *files, "dataset.validation_fraction=null", out, *OPTIONS]


def check(words: list[str]) -> list[RowFinding]:
    return finetune.preview(*words, validate=True).findings


def break_files(folder: Path) -> dict[str, str]:
    """Damage images, and return what is wrong with each."""
    (folder / "0.jpg").unlink()
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:-300])
    noise_image(1, 200, 200).save(folder / "2.png")
    break_inside(folder / "2.png")
    (folder / "2.png").rename(folder / "2.jpg")
    (folder / "3.jpg").write_text("hello")
    (folder / "4.jpg").write_bytes(b"")
    Image.new("1", (10_000, 9_000)).save(folder / "5.png")
    (folder / "5.png").rename(folder / "5.jpg")
    cut = "cannot be decoded"
    reasons = ["no image `0.jpg`", cut, cut, "is not an image", "is empty", "is too large"]
    return {f"{number}.jpg": reason for number, reason in enumerate(reasons)}


TEXTS: list[tuple[bytes | dict[str, Any], str]] = [
    (ask("6.jpg", suffix=" "), "`suffix` has an empty text"),
    (ask("7.jpg", prefix=""), "its prompt is empty"),
    (b'{"image": "8.jpg", "prefix"', "not a whole JSON object"),
    ({"image": "9.jpg", "prefix": "?"}, "no `suffix`"),
    (ask("10.jpg", suffix=True), "must be a string"),
    (ask("11.jpg", id="20"), ""),
    (ask("12.jpg", id="20"), "id `20` is duplicated"),
    (ask("13.jpg", suffix="red " * 300), "is too long"),
    (ask("14.jpg", suffix="a <image>"), "reserved token"),
    (b'{"image": "15.jpg", "prefix": "wh\xe4t", "suffix": "x"}', "not UTF-8"),
    (ask("../16.jpg"), "is outside"),
]
"""Lines, and what is wrong with each."""


def test_every_planted_fault_is_found_with_its_file_and_line(
    tmp_path: Path, texts: list[str], command: Command
) -> None:
    broken = break_files(tmp_path)
    rows: list[bytes | dict[str, Any]] = [ask(name) for name in broken]
    reasons = [*broken.values(), *(reason for _, reason in TEXTS)]
    rows += [row for row, _ in TEXTS]
    rows += [ask(f"{number}.jpg", id=f"plain {number}") for number in range(17, 32)]
    write_lines(tmp_path / "train.jsonl", rows)
    code, out, _ = command("preview", *texts, "validate=true")
    faults = [text for text in out.splitlines() if text.startswith("fault: ")]
    expected = {line: reason for line, reason in enumerate(reasons, 1) if reason}
    assert len(faults) == len(expected) == 16
    for line, reason in expected.items():
        [fault] = [
            fault for fault in faults if f"{tmp_path}/train.jsonl line {line}:" in fault.replace(")", "")
        ]
        assert reason in fault
    assert "16 faults" in out
    assert code == 1


def test_clean_data_with_unusual_images_have_no_faults(
    tmp_path: Path, texts: list[str], command: Command
) -> None:
    photo(0).convert("CMYK").save(tmp_path / "0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(1).save(tmp_path / "1.jpg", exif=exif)
    photo(2).convert("L").save(tmp_path / "2.jpg")
    photo(3).convert("P").save(tmp_path / "3.png")
    (tmp_path / "3.png").rename(tmp_path / "3.jpg")
    code, out, _ = command("preview", *texts, "validate=true")
    assert "fault: " not in out
    assert "40 rows and 40 images checked" in out
    assert code == 0


def test_images_of_another_split_are_found_and_copies_that_look_alike_are_doubts(
    tmp_path: Path, texts: list[str]
) -> None:
    (tmp_path / "32.jpg").write_bytes((tmp_path / "3.jpg").read_bytes())
    photo(5).resize((50, 40)).save(tmp_path / "33.jpg", quality=60)
    rows = [ask(f"{number}.jpg") for number in (32, 33, *range(34, 40), 9)]
    write_lines(tmp_path / "valid.jsonl", rows)
    findings = {finding.row: finding for finding in check(texts)}
    assert "its image is also in train" in findings["1"].reason
    assert f"{tmp_path}/train.jsonl line 4" in findings["1"].reason
    assert findings["1"].place == f"{tmp_path}/valid.jsonl line 1"
    assert "looks like one in train" in findings["2"].reason
    assert f"{tmp_path}/train.jsonl line 6" in findings["2"].reason
    assert "the same image and texts" in findings["9"].reason
    assert [findings[row].is_fault for row in ("1", "2", "9")] == [True, False, True]


def test_the_test_split_is_checked_too(tmp_path: Path, texts: list[str], command: Command) -> None:
    test = tmp_path / "test.jsonl"
    write_lines(test, [ask("40.jpg"), ask("39.jpg", suffix=" "), ask("0.jpg"), ask("41.jpg")])
    photo(40).save(tmp_path / "40.jpg")
    (tmp_path / "41.jpg").write_text("hello")
    code, out, _ = command("preview", *texts, f"dataset.test={test}", "validate=true")
    assert code == 1
    faults = [text for text in out.splitlines() if text.startswith("fault: ")]
    for line, reason in {2: "has an empty text", 3: "is also in train", 4: "is not an image"}.items():
        assert [fault for fault in faults if f"{test} line {line}" in fault and reason in fault]
    assert len(faults) == 3
    assert "test" in (tmp_path / "preview/preview.html").read_text()
    assert list((tmp_path / "preview/pictures").glob("test-*.png"))


def test_location_tokens_in_a_few_texts_are_doubts_with_their_lines(
    tmp_path: Path, texts: list[str]
) -> None:
    rows = [ask(f"{number}.jpg") for number in range(32)]
    rows[4]["suffix"], rows[5]["prefix"] = "a <loc0000>", "<mask> is what?"
    write_lines(tmp_path / "train.jsonl", rows)
    found = {finding.place: finding for finding in check(texts) if finding.row}
    assert "`<loc....>`" in found[f"{tmp_path}/train.jsonl line 5"].reason
    assert "`<mask>`" in found[f"{tmp_path}/train.jsonl line 6"].reason
    assert not any(finding.is_fault for finding in found.values())


def write_coco(folder: Path, name: str, changes: Sequence[dict[str, object]]) -> str:
    """An image with a cup and a dog for each change, which is one of the dog or of the image's size."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, change in enumerate(changes):
        file = f"{name}{number}.jpg"
        photo({"train": 100, "valid": 200}[name] + number).save(folder / file)
        images.append({"id": number, "file_name": file, "width": change.get("width", 64), "height": 48})
        for category in (1, 2):
            place = {"id": len(annotations), "image_id": number, "category_id": category}
            polygon = [10, 10, 30, 10, 30, 30]
            annotations.append({**place, "bbox": [10, 10, 20, 20], "segmentation": [polygon]})
        annotations[-1].update({key: value for key, value in change.items() if key != "width"})
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return f"{folder}/{name}.json"


OBJECTS: list[tuple[dict[str, object], str, str]] = [
    ({"width": 99}, "image 0", "99 x 48"),
    ({"bbox": [10, 100, 20, 20]}, "annotation 3", "inside the picture"),
    ({"bbox": [30, 30, -20, -20]}, "annotation 5", "inverted"),
    ({"bbox": [10, 10, 0, 20]}, "annotation 7", "to have an area"),
    ({"category_id": 9}, "annotation 9", "no category 9"),
    ({"image_id": 99}, "annotation 11", "no image 99"),
    ({"segmentation": [[10, 10, 30, 30]]}, "annotation 13", "polygon"),
    ({"bbox": "x"}, "annotation 15", "a box of four numbers"),
    ({"category_id": 3}, "image 8", "class `cow` is not in"),
    ({"segmentation": [[40, 40, 50, 40, 50, 47]]}, "annotation 19", "its mask to be in its box"),
]
"""A change, the item and what is wrong with it."""


def test_every_planted_fault_in_boxes_is_found_with_its_item(tmp_path: Path, command: Command) -> None:
    changes = [change for change, *_ in OBJECTS]
    files = [write_coco(tmp_path, "train", [{}] * 4), write_coco(tmp_path, "valid", [*changes, {}])]
    words = [f"dataset.train={files[0]}", f"dataset.validation={files[1]}", f"out={tmp_path}/preview"]
    code, out, _ = command("preview", "recipe=coco_json_qlora", *words, *OPTIONS, "validate=true")
    faults = [text.replace(")", "") for text in out.splitlines() if text.startswith("fault: ")]
    assert len(faults) == len(OBJECTS)
    for _, item, reason in OBJECTS:
        [fault] = [fault for fault in faults if f"{tmp_path}/valid.json: {item}:" in fault]
        assert reason in fault
    assert code == 1


def test_all_findings_are_in_a_file_and_many_of_a_kind_are_counted(
    tmp_path: Path, texts: list[str], command: Command
) -> None:
    for number in range(12):
        (tmp_path / f"{number}.jpg").unlink()
    rows = [ask(f"{number}.jpg") for number in range(32)]
    rows[14]["suffix"] = " "
    write_lines(tmp_path / "train.jsonl", rows)
    code, out, _ = command("preview", *texts, "validate=true", "dataset.on_error=skip")
    assert code == 1, "faults are faults, also where a training would leave them out"
    assert "... and 7 more of this kind" in out
    assert "`suffix` has an empty text" in out
    assert "13 faults" in out
    lines = (tmp_path / "preview/findings.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["is_fault"] for line in lines) == 13


def test_a_file_that_cannot_be_read_at_all_is_a_mistake(tmp_path: Path, command: Command) -> None:
    code, out, err = command("preview", *words_of(tmp_path, "nowhere.jsonl"), "validate=true")
    assert code == 2
    assert f"No file {tmp_path}/nowhere.jsonl" in err
    assert "checked" not in out


def test_a_row_that_its_format_leaves_out_on_purpose_is_no_fault(
    tmp_path: Path, texts: list[str], command: Command
) -> None:
    turns = [{"from": "human", "value": "what is it?"}, {"from": "gpt", "value": "a thing"}]
    for name, first in (("train", 0), ("valid", 20)):
        rows = [{"image": f"{number}.jpg", "conversations": turns} for number in range(first, first + 20)]
        if name == "train":
            del rows[3]["image"]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [*texts[1:], "recipe=jsonl_qlora", "dataset=conversations", "dataset.skip_text_only=true"]
    code, out, _ = command("preview", *words, "validate=true")
    assert f"doubt: {tmp_path}/train.jsonl line 4: it has no image" in out
    assert "0 faults" in out
    assert code == 0


def test_the_test_split_is_checked_like_the_others(tmp_path: Path, texts: list[str]) -> None:
    photo(40).save(tmp_path / "40.jpg")
    names = ("40.jpg", "3.jpg", "35.jpg", "missing.jpg")
    write_lines(tmp_path / "test.jsonl", [ask(name) for name in names])
    result = finetune.preview(*texts, f"dataset.test={tmp_path}/test.jsonl", validate=True)
    faults = sorted(str(finding) for finding in result.findings if finding.is_fault)
    reasons = ["is also in train", "is also in validation", "no image `missing.jpg`"]
    assert len(faults) == 3
    for line, reason in enumerate(reasons, 2):
        assert any(f"test.jsonl line {line}" in fault and reason in fault for fault in faults)
    assert result.rows == result.images == 43
    assert len(list((tmp_path / "preview").rglob("test-*.png"))) == 2
    assert "test.jsonl" in (tmp_path / "preview" / "preview.html").read_text(encoding="utf-8")
