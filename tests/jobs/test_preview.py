import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import finetune
from finetune.errors import UserError
from finetune.model.load import resolve_path

Command = Callable[..., tuple[int, str, str]]

SIDE = 56
"""Pixels of the tiny model's images."""


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def words_of(folder: Path, *more: str) -> list[str]:
    files = [f"dataset.{name}={folder}/{name}.jsonl" for name in ("train", "validation")]
    head = ["recipe=jsonl_qlora", "model=tiny", "dataset.validation_fraction=null", "examples=2"]
    return [*head, *files, f"out={folder}/out", *more]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four white images with a black box in the middle of the right half, and a question about each."""
    for name, first in (("train", 0), ("validation", 4)):
        rows = []
        for number in range(first, first + 4):
            image = Image.new("RGB", (200, 100), "white")
            ImageDraw.Draw(image).rectangle((120, 25 + number, 180, 75), fill="black")
            image.save(tmp_path / f"{number}.png")
            answer = f"a box {number}"
            rows.append({"image": f"{number}.png", "prefix": "what is it?", "suffix": answer})
        write_rows(tmp_path, name, rows)
    return tmp_path


def edit(folder: Path, **values: object) -> None:
    """Change a key of every row of both splits."""
    for name in ("train", "validation"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        write_rows(folder, name, [{**row, **values} for row in rows])


def test_no_weights_are_read_and_the_folder_has_a_page_and_its_images(
    folder: Path, command: Command, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(resolve_path("tiny"), checkpoint)
    for weights in checkpoint.glob("*.safetensors"):
        weights.unlink()
    words = [word for word in words_of(folder) if word != "model=tiny"]
    code, out, err = command("preview", *words, f"model={checkpoint}")
    assert (code, err) == (0, "")
    assert f"{folder}/out/preview.html shows the data" in out
    page = (folder / "out/preview.html").read_text()
    assert "attention both ways: 64 image, 1 BOS, " in page
    assert "attention causal: " in page
    assert f"{folder}/train.jsonl line" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    pictures = sorted(path.name for path in (folder / "out/pictures").iterdir())
    assert pictures == ["train-000.png", "train-001.png", "validation-000.png", "validation-001.png"]


def find_drawn(folder: Path, name: str) -> tuple[int, int, int, int]:
    """Return the box that is drawn on an image, in pixels of the model."""
    with Image.open(folder / "out/pictures" / name) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    factor = pixels.shape[1] // SIDE
    pixels = pixels[: SIDE * factor]
    colored = pixels.max(2) - pixels.min(2) > 60
    # The outline alone: the tag is filled, and where it is, rows and columns of the box are crossed.
    rows, columns = np.nonzero(colored.sum(1) > 0)[0], np.nonzero(colored.sum(0) > 0)[0]
    box = (columns[0], rows[0], columns[-1], rows[-1])
    return tuple(round(int(value) / factor) for value in box)


@pytest.mark.parametrize("task", ["text", "box_text"])
def test_the_drawn_boxes_are_those_of_the_label_tokens_in_the_resized_image(
    folder: Path, task: str
) -> None:
    # Of 1,024 bins: a quarter, a half, three quarters and the whole.
    edit(folder, prefix="detect x", suffix="<loc0256><loc0512><loc0767><loc1023>")
    words = ["metric=detection"] if task == "box_text" else []
    finetune.preview(*words_of(folder, f"task={task}", *words))
    left, top, right, bottom = find_drawn(folder, "train-000.png")
    assert abs(left - SIDE * 0.5) <= 1
    assert abs(top - SIDE * 0.25) <= 1
    assert abs(right - SIDE) <= 1
    assert abs(bottom - SIDE * 0.75) <= 1


def test_a_mirrored_image_has_mirrored_boxes(folder: Path) -> None:
    content = {
        "images": [{"id": 0, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [120, 25, 60, 50]} for n in (0, 1)
        ],
        "categories": [{"id": 1, "name": " x"}],
    }
    for name in ("train", "validation"):
        (folder / f"{name}.json").write_text(json.dumps(content))
    files = [f"dataset.{name}={folder}/{name}.json" for name in ("train", "validation")]
    words = ["recipe=coco_json_qlora", "model=tiny", "augmentation.flip=1", f"out={folder}/out", *files]
    finetune.preview(*words, "task.write_label=false", "task.prompt=box", "examples=1")
    left, _, right, _ = find_drawn(folder, "train-000.png")
    assert abs(left - SIDE * 0.1) <= 1
    assert abs(right - SIDE * 0.4) <= 1
    left, _, right, _ = find_drawn(folder, "validation-000.png")
    assert abs(left - SIDE * 0.6) <= 1, "validation images are not augmented"
    assert abs(right - SIDE * 0.9) <= 1


def test_texts_of_data_and_names_of_files_are_escaped(folder: Path, command: Command) -> None:
    text = "<script>alert(1)</script>\x1b[31m\u202e"
    edit(folder, prefix=f"what {text}", suffix=f"is {text}", group=text)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    write_rows(folder, "train", [{**row, "id": f"{text}{n}"} for n, row in enumerate(rows)])
    code, out, _ = command("preview", *words_of(folder))
    page = (folder / "out/preview.html").read_text()
    assert code == 0
    for place in (page, out):
        assert not {"\x1b", "\u202e"} & {*place}
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_preview_is_replaced_with_overwrite_and_other_files_are_kept(
    folder: Path, command: Command
) -> None:
    assert command("preview", *words_of(folder))[0] == 0
    code, _, err = command("preview", *words_of(folder))
    assert code == 2
    assert "already has a result of `preview`" in err
    (folder / "out/pictures/notes.txt").write_text("mine")
    (folder / "out/mine.txt").write_text("mine")
    words = [word for word in words_of(folder) if not word.startswith("examples")]
    assert command("preview", *words, "examples=1", "overwrite=true")[0] == 0
    names = {path.name for path in (folder / "out").rglob("*")}
    assert {"notes.txt", "mine.txt", "train-000.png"} < names
    assert "train-001.png" not in names


@pytest.mark.parametrize("marker", [None, ".finetune"])
def test_a_folder_of_others_or_of_a_run_is_never_touched(
    folder: Path, command: Command, marker: str | None
) -> None:
    (folder / "out").mkdir()
    (folder / "out/preview.html").write_text("mine")
    if marker is not None:
        (folder / "out" / marker).touch()
    code, _, err = command("preview", *words_of(folder), "overwrite=true")
    assert code == 2
    assert "`preview` did not write what is in it" in err
    assert (folder / "out/preview.html").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_a_mistake(folder: Path, command: Command) -> None:
    (folder / "out").write_text("mine")
    code, _, err = command("preview", *words_of(folder))
    assert code == 2
    assert "is not a folder" in err


def doubts_of(folder: Path, *more: str) -> list[str]:
    result = finetune.preview(*words_of(folder, *more))
    assert not result.faults
    return [str(finding) for finding in result.findings]


def test_images_far_from_square_and_answers_that_are_cut_are_doubts(folder: Path) -> None:
    found = doubts_of(folder, "evaluation.max_new_tokens=2")
    assert any("4 of 4 images are at least twice as wide" in doubt for doubt in found)
    assert any("max_new_tokens=2 cuts the answers of 4 of 4" in doubt for doubt in found)


def test_equal_answers_and_empty_prompts_are_doubts(folder: Path) -> None:
    for name in ("train", "validation"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        write_rows(folder, name, [{**rows[n % 4], "prefix": "", "suffix": "yes"} for n in range(12)])
    result = finetune.preview(*words_of(folder))
    found = [str(finding) for finding in result.findings]
    assert "train: The prompts are empty." in found
    assert any("12 of 12 answers are 'yes'" in doubt for doubt in found)


def test_classes_of_one_split_or_without_a_prompt_and_tiny_boxes_are_doubts(folder: Path) -> None:
    box = "<loc0100><loc0100><loc0110><loc0900>"
    edit(folder, prefix="detect cat", suffix=f"{box} cat")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    write_rows(folder, "train", [*rows[:3], {**rows[3], "suffix": f"{box} dog"}])
    found = doubts_of(folder, "task=box_text", "metric=detection")
    assert "train: Answers have classes that their own prompts do not name: dog." in found
    assert "validation: Classes of train without an object in validation: dog." in found
    assert any("4 of 4 boxes are less than 4 pixels wide or high" in doubt for doubt in found)


def test_no_usable_row_is_a_mistake_and_leaves_nothing(folder: Path) -> None:
    edit(folder, suffix="a <image>")
    with pytest.raises(UserError, match=r"All 4 train rows have faults; the first: train \(.*line 1\)"):
        finetune.preview(*words_of(folder))
    assert not (folder / "out").exists()
