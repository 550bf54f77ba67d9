"""When cached rows are taken, when they are read again, and what is reported where they cannot be kept."""

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from PIL import Image

from finetune.data.cache import PLACE, find_cache_dir, find_places
from finetune.data.images import resolve_image
from finetune.data.options import Jsonl, OnError
from finetune.data.reading.faults import Faults
from finetune.data.rows import Built, Splits, build_rows, hold_out, text_features
from finetune.errors import UserError

FEATURES = text_features("prefix", lists=("suffixes",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache/finetune"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A JSONL file of four rows and their images."""
    return write_folder(tmp_path / "data", range(4))


def write_folder(folder: Path, numbers: range) -> Path:
    folder.mkdir()
    rows = []
    for number in numbers:
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "prefix": "p", "suffix": f"a{number}"})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def load(file: Path | str, on_error: str = "error") -> Splits:
    return Jsonl(train=str(file), validation=str(file), on_error=OnError(on_error)).load()


def suffixes(file: Path | str) -> list[str]:
    return [texts[0] for texts in load(file).train["suffixes"]]


def keep_time(file: Path, change: Callable[[], object]) -> None:
    """Change a file behind the back of its time."""
    status = file.stat()
    change()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def readings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what was logged about reading since the last call."""
    caplog.set_level(logging.INFO, logger="finetune")

    def take() -> list[str]:
        lines = [record.message for record in caplog.records]
        caplog.clear()
        return lines

    return take


def test_rows_are_read_once_and_the_log_says_where_they_are_kept(
    folder: Path, cache: Path, readings: Callable[[], list[str]]
) -> None:
    load(folder / "train.jsonl")
    (line,) = readings()
    assert f"{cache}, which may be deleted" in line
    assert suffixes(folder / "train.jsonl") == ["a0", "a1", "a2", "a3"]
    assert readings() == []


def test_a_file_of_the_same_name_in_another_folder_has_its_own_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert load("train.jsonl").train["image"][0] == str(folder / "0.png")
    other = write_folder(tmp_path / "other", range(4))
    status = (folder / "train.jsonl").stat()
    os.utime(other / "train.jsonl", ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.chdir(other)
    assert load("train.jsonl").train["image"][0] == str(other / "0.png")


def test_a_link_that_leads_to_another_folder_has_the_rows_of_that(folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", range(4))
    link = tmp_path / "link"
    for target in (folder, other):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert load(link / "train.jsonl").train["image"][0] == str(target / "0.png")


def test_a_file_changed_under_the_same_size_and_time_is_read_again(folder: Path) -> None:
    file = folder / "train.jsonl"
    assert suffixes(file)[0] == "a0"
    keep_time(file, lambda: file.write_text(file.read_text().replace("a0", "b0")))
    assert suffixes(file)[0] == "b0"


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (lambda image: image.unlink(), "line 2: no image `1.png`"),
    "emptied": (lambda image: image.write_bytes(b""), "line 2: .*1.png` is empty"),
    "text": (lambda image: image.write_text("text"), "line 2: .*1.png` is not an image"),
    "folder": (lambda image: replace_by_folder(image), "line 2: no image `1.png`"),
    "link out": (lambda image: replace_by_link(image), "line 2: image `1.png` is outside"),
}


def replace_by_folder(image: Path) -> None:
    image.unlink()
    image.mkdir()


def replace_by_link(image: Path) -> None:
    outside = image.parent.parent / "outside.png"
    image.rename(outside)
    image.symlink_to(outside)


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_changed_is_reported_with_its_line(folder: Path, change: str) -> None:
    act, message = CHANGES[change]
    load(folder / "train.jsonl")
    act(folder / "1.png")
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            load(folder / "train.jsonl")


def test_an_image_of_another_size_is_measured_again(
    folder: Path, readings: Callable[[], list[str]]
) -> None:
    load(folder / "train.jsonl")
    readings()
    Image.new("RGB", (30, 24)).save(folder / "1.png")
    assert load(folder / "train.jsonl").train["width"][:] == [20, 30, 20, 20]
    assert "images changed" in readings()[0]


def test_the_folder_of_images_that_becomes_a_link_is_noticed(folder: Path, tmp_path: Path) -> None:
    inside = folder / "img"
    inside.mkdir()
    (folder / "0.png").rename(inside / "0.png")
    (folder / "one.jsonl").write_text('{"image": "img/0.png", "prefix": "p", "suffix": "a"}')
    load(folder / "one.jsonl")
    inside.rename(tmp_path / "away")
    inside.symlink_to(tmp_path / "away")
    with pytest.raises(UserError, match="line 1: image `img/0.png` is outside"):
        load(folder / "one.jsonl")


def test_a_row_left_out_for_its_image_is_read_again_once_that_is_there(folder: Path) -> None:
    (folder / "1.png").rename(folder / "away.png")
    for _ in range(2):
        splits = load(folder / "train.jsonl", "skip")
        assert (len(splits.train), len(splits.skipped)) == (3, 2)
    (folder / "away.png").rename(folder / "1.png")
    splits = load(folder / "train.jsonl", "skip")
    assert (len(splits.train), len(splits.skipped)) == (4, 0)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda folder: os.truncate(folder / "rows.arrow", 300),
    "emptied": lambda folder: os.truncate(folder / "rows.arrow", 0),
    "deleted": lambda folder: (folder / "rows.arrow").unlink(),
    "flipped": lambda folder: keep_time(folder / "rows.arrow", lambda: flip(folder / "rows.arrow", -300)),
    "notes cut": lambda folder: os.truncate(folder / "rows.json", 20),
    "notes emptied": lambda folder: os.truncate(folder / "rows.json", 0),
    "notes deleted": lambda folder: (folder / "rows.json").unlink(),
    "notes of another kind": lambda folder: (folder / "rows.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_made_anew_with_one_line(
    folder: Path, cache: Path, readings: Callable[[], list[str]], damage: str
) -> None:
    load(folder / "train.jsonl")
    readings()
    (found,) = cache.iterdir()
    DAMAGES[damage](found)
    assert suffixes(folder / "train.jsonl") == ["a0", "a1", "a2", "a3"]
    assert len(readings()) == 1
    assert suffixes(folder / "train.jsonl") == ["a0", "a1", "a2", "a3"]
    assert readings() == []


@pytest.mark.parametrize("obstacle", ["a file", "a device"])
def test_a_cache_that_cannot_be_written_is_named(folder: Path, cache: Path, obstacle: str) -> None:
    if obstacle == "a file":
        cache.parent.write_text("")
    else:
        cache.parent.mkdir()
        cache.symlink_to("/dev/full")
    with pytest.raises(UserError, match=rf"cannot be cached in {cache} .*HF_DATASETS_CACHE=FOLDER"):
        load(folder / "train.jsonl")


def test_a_cache_that_is_full_is_named(folder: Path, tmp_path: Path) -> None:
    words = [
        "plan", "recipe=jsonl_qlora", "model=tiny", f"dataset.train={folder}/train.jsonl",
        f"dataset.validation={folder}/train.jsonl",
    ]  # fmt: skip
    # In a process of its own: the limit is on every file that a process writes, compiled modules too.
    limited = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *words],
        env=os.environ | limited,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: The rows cannot be cached in {tmp_path}/cache/finetune "), (
        done.stderr
    )
    assert "HF_DATASETS_CACHE=FOLDER" in done.stderr


def test_another_version_of_the_reader_reads_again(tmp_path: Path) -> None:
    def build() -> Built:
        namespace: dict[str, Any] = {}
        exec(compile(code.read_text(), str(code), "exec"), namespace)
        return build_rows(namespace["read"], FEATURES, paths=(), word="a")

    code = tmp_path / "reader.py"
    row = "{'id': 'a', 'group': None, 'image': None, 'prefix': 'p', 'suffixes': [word]}"
    code.write_text(f"def read(faults, word):\n    yield {row}\n")
    assert build().rows["suffixes"][0] == ["a"]
    code = tmp_path / "newer.py"
    code.write_text(f"def read(faults, word):\n    word = 2 * word\n    yield {row}\n")
    assert build().rows["suffixes"][0] == ["aa"]


WRONG: dict[str, Any] = {
    "a text for a list": {"suffixes": "red"},
    "an object for a text": {"prefix": {"a": 1}},
    "an object in a list": {"suffixes": [{"a": 1}]},
    "half of a pair": {"suffixes": ["\ud800"]},
    "a switch for a text": {"prefix": True},
}


def read_wrong(faults: Faults, file: str, kind: str) -> Iterator[dict[str, Any]]:
    row = {"group": None, "image": None, "prefix": "p", "suffixes": ["a"]}
    for number in range(4):
        where = f"{file} item {number}"
        with faults.skipping():
            if number == 2 and kind in ERRORS:
                raise ERRORS[kind]
            yield {**row, "id": where, **(WRONG[kind] if number == 2 and kind in WRONG else {})}


ERRORS: dict[str, Exception] = {
    type(error).__name__: error
    for error in (
        *(KeyError("x"), TypeError("t"), AttributeError("a"), ValueError("v"), IndexError("i")),
        *(
            OverflowError("o"),
            RecursionError("r"),
            ZeroDivisionError("z"),
            OSError(5, "Input/output error"),
        ),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    )
}


@pytest.mark.parametrize("kind", [*WRONG, *ERRORS])
def test_whatever_goes_wrong_with_a_record_is_a_fault_with_its_place(kind: str) -> None:
    with pytest.raises(UserError, match=r"^x item 2: .*dataset\.on_error=skip\.$"):
        build_rows(read_wrong, FEATURES, paths=(), origin="x", file="x", kind=kind)
    rows, skipped = build_rows(read_wrong, FEATURES, "skip", paths=(), origin="x", file="x", kind=kind)
    assert rows["id"][:] == ["x item 0", "x item 1", "x item 3"]
    assert len(skipped) == 1
    assert skipped[0].startswith("x item 2: ")


def read_nothing(faults: Faults, file: str) -> Iterator[dict[str, Any]]:
    if file:
        raise RuntimeError("all is lost")
    yield {}


@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_whatever_goes_wrong_outside_a_record_names_the_file(on_error: str) -> None:
    with pytest.raises(UserError, match=r"^x: .*RuntimeError: all is lost"):
        build_rows(read_nothing, FEATURES, on_error, paths=(), origin="x", file="x")


def test_numbers_are_written_as_text(tmp_path: Path) -> None:
    row = {"id": 7, "group": 2.5, "image": None, "prefix": "p", "suffixes": ["a"]}
    assert build_rows(read_one, FEATURES, paths=(), row=row).rows[0]["group"] == "2.5"


def read_one(faults: Faults, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield row


def test_a_folder_of_images_is_never_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deep").mkdir()
    monkeypatch.setattr(os, "walk", None)
    assert (
        len(
            Jsonl(train=str(folder / "train.jsonl"), validation_fraction=0.5, image_dir="/" + str(folder))
            .load()
            .train
        )
        == 2
    )


def test_rows_of_the_cache_are_those_that_the_reader_would_give(folder: Path) -> None:
    first = load(folder / "train.jsonl").train
    assert first[:] == load(folder / "train.jsonl").train[:]
    assert resolve_image("0.png", folder, "") == first["image"][0]
    assert find_cache_dir() in Path(first.cache_files[0]["filename"]).parents


def read_placed(faults: Faults, file: str) -> Iterator[dict[str, Any]]:
    for number, word in enumerate(Path(file).read_text().split(), 1):
        yield {"id": word, "group": None, "image": word, PLACE: f"{file} line {number}"}


def test_a_row_knows_its_line_and_no_task_sees_it(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("a b c d")
    rows = build_rows(read_placed, text_features(), paths=("file",), file=str(file)).rows
    assert PLACE not in rows.column_names
    splits = hold_out(rows.add_column("n", list(range(4))).select([3, 1]), 0.5)
    lines = {word: f"{file} line {number}" for number, word in enumerate("abcd", 1)}
    for part in (rows, *splits[:2]):
        assert find_places(part, part["id"][:]) == {name: lines[name] for name in part["id"][:]}
    # The second is one of the rows that task.classes=one makes of b.
    assert find_places(rows, ["a", "b/cat", "e"]) == {"a": lines["a"], "b/cat": lines["b"]}
    assert find_places(Dataset.from_dict({"id": ["a"]}), ["a"]) == {}
