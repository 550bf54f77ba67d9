"""`data=FOLDER` of what `datasets` writes: parquet files as on the Hub, and `save_to_disk`."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pillow

from finetune.command import compose_command, read_line
from finetune.data.rows import Splits
from tests.data.formats import exports
from tests.data.formats.exports import ALL, CLASSES, QUESTION, Scene, answer, caption

TEXT, IMAGE = Value("string"), Image()


def pixels(scene: Scene) -> Any:
    content = io.BytesIO()
    Pillow.new("RGB", (exports.WIDTH, exports.HEIGHT), (ord(scene.name[0]), 0, 0)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def dataset(features: dict[str, Any], row: Callable[[Scene], list[Any]]) -> Dataset:
    """Return a dataset of all scenes, with the image first."""
    rows = [dict(zip(features, [pixels(scene), *row(scene)], strict=True)) for scene in ALL]
    return Dataset.from_list(rows, features=Features(features))


def questions() -> Dataset:
    features = {"image": IMAGE, "question": TEXT, "multiple_choice_answer": TEXT}
    return dataset(features, lambda scene: [QUESTION, answer(scene)])


def captions() -> Dataset:
    return dataset({"image": IMAGE, "text": TEXT}, lambda scene: [caption(scene)])


def classes() -> Dataset:
    features = {"image": IMAGE, "label": ClassLabel(names=list(CLASSES))}
    return dataset(features, lambda scene: [len(scene.boxes) % 2])


def boxes() -> Dataset:
    objects = {"bbox": List(List(Value("float32"), 4)), "category": List(ClassLabel(names=list(CLASSES)))}

    def row(scene: Scene) -> list[Any]:
        corners = [[x, y, right - x, low - y] for _, x, y, right, low in scene.boxes]
        return [{"bbox": corners, "category": [CLASSES.index(label) for label, *_ in scene.boxes]}]

    return dataset({"image": IMAGE, "objects": objects}, row)


def messages() -> Dataset:
    part = [{"type": TEXT, "text": TEXT}]
    features = {"images": List(IMAGE), "messages": [{"role": TEXT, "content": part}]}

    def row(scene: Scene) -> dict[str, Any]:
        asked = [{"type": "image", "text": None}, {"type": "text", "text": QUESTION}]
        said = [{"type": "text", "text": answer(scene)}]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        return {"images": [pixels(scene)], "messages": turns}

    return Dataset.from_list([row(scene) for scene in ALL], features=Features(features))


def write_shards(rows: Dataset, folder: Path, *splits: str) -> None:
    for split in splits:
        for number in range(2):
            file = folder / f"{split}-{number:05d}-of-00002.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows.shard(2, number).to_parquet(file)


def read(words: list[str]) -> tuple[str, Splits]:
    command = compose_command("train", read_line("train", words).overrides)
    options, _ = command.check()
    return command.choices["recipe"], options.dataset.load()


@pytest.mark.parametrize(
    ("make", "recipe", "columns"),
    [
        pytest.param(questions, "vqa_qlora", {"question", "answers"}, id="questions"),
        pytest.param(captions, "caption_qlora", {"captions"}, id="captions"),
        pytest.param(classes, "classify_qlora", {"answers"}, id="classes"),
        pytest.param(boxes, "detect_qlora", {"objects"}, id="boxes"),
        pytest.param(messages, "text_qlora", {"prefix", "suffixes"}, id="messages"),
    ],
)
@pytest.mark.parametrize("below", ["", "data"])
def test_parquet_with_one_split_has_what_its_task_reads(
    make: Callable[[], Dataset], recipe: str, columns: set[str], below: str, tmp_path: Path
) -> None:
    write_shards(make(), tmp_path / "export" / below, "train")
    chosen, splits = read([f"data={tmp_path / 'export'}", "model=tiny"])
    assert chosen == recipe
    assert columns <= set(splits.train.column_names)
    assert len(splits.train) + len(splits.validation) == len(ALL)


def test_classes_are_the_answers_of_their_task(tmp_path: Path) -> None:
    write_shards(classes(), tmp_path / "export", "train")
    line = read_line("train", [f"data={tmp_path / 'export'}", "model=tiny"])
    assert "task.answers=answers" in line.words


def test_the_splits_of_parquet_are_used(tmp_path: Path) -> None:
    write_shards(questions(), tmp_path / "export/data", "train", "validation")
    _, splits = read([f"data={tmp_path / 'export'}", "model=tiny"])
    assert len(splits.train) == len(splits.validation) == len(ALL)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(questions, id="dataset"),
        pytest.param(lambda: DatasetDict(train=questions(), test=questions()), id="splits"),
    ],
)
def test_what_was_saved_to_disk_is_read(make: Callable[[], Dataset | DatasetDict], tmp_path: Path) -> None:
    make().save_to_disk(tmp_path / "export")
    recipe, splits = read([f"data={tmp_path / 'export'}", "model=tiny"])
    assert recipe == "vqa_qlora"
    assert splits.train["question"][0] == QUESTION
    assert len(splits.train) + len(splits.validation) == len(ALL)
