"""Every reader of a published benchmark meets single changes of its files: rows, or one message."""

import csv
import importlib
import io
import json
import os
import pickle
import random
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.cache import PLACE
from finetune.data.reading.faults import Faults
from finetune.errors import UserError
from tests.test_data_documents import ELSEWHERE

Rows = dict[str, dict[str, Any]]

NAMES = (
    "ai2d aokvqa chartqa coco_captions coco_detection countbenchqa docvqa gqa infovqa mmvp nlvr2 nocaps "
    "okvqa pope refcoco scienceqa stvqa tallyqa textcaps textvqa vizwiz vqav2"
)
OPTIONS: dict[str, Any] = {"rsvqa_lr": {"subset": "lr"}, "rsvqa_hr": {"subset": "hr"}}
RELEASES: dict[str, dict[str, Any]] = {**{name: {} for name in NAMES.split()}, **OPTIONS}
"""Name -> the options of its reader."""


class Gone:
    """In place of a value: its key is taken away."""


GONE: Any = Gone
VALUES: list[Any] = [GONE, None, 7, -1, 0.5, True, 10**30, "", " ", "x", "\ud800", [], {}, [[["x"]]]]
"""What a key gets in place of its value."""

CELLS: list[Any] = [
    GONE,
    "",
    " ",
    "x",
    "7",
    "-1",
    "0",
    "0.5",
    "null",
    "[]",
    '"',
    "a\nb",
    "\0",
    "(a)",
    "9" * 30,
]
"""What a cell of a CSV file gets."""

MOST = 220
"""Changes of one reader that are tried."""

LEFT_OUT: list[tuple[str, str, Any]] = [
    ("scienceqa", "image", None),  # a question without an image
    ("countbenchqa", "image", None),
    ("countbenchqa", "", {}),  # a row of nulls
    ("vizwiz", "answer", ""),  # an annotator who wrote nothing
]
"""Reader, key and value that leave something out as the release means it."""

SHARED = {"refcoco": 4, "ai2d": 2, "mmvp": 1, "coco_detection": 2}
"""Reader -> rows that one item may change, where it is not one."""


def load_module(name: str) -> Any:
    return importlib.import_module(f"finetune.data.releases.{ELSEWHERE.get(name, name)}")


def read(name: str, root: Path, split: str, skip: bool) -> tuple[Rows, list[str]]:
    """Read a split as `build_rows` does: ids differ, and each row fits the columns."""
    module, faults, rows = load_module(name), Faults(skip), {}
    for row in module.read(faults, str(root), split, **RELEASES[name]):
        with faults.skipping():
            if row["id"] in rows:
                raise UserError(f"{root}: item: id `{row['id']}` is duplicated in {list_files(root)}.")
            row = {name: value for name, value in row.items() if name != PLACE}
            assert set(row) == set(module.FEATURES)
            try:
                pa.Table.from_pylist([row], schema=module.FEATURES.arrow_schema)
            except UnicodeEncodeError as error:  # `build_rows` names the file
                raise UserError(f"half of a surrogate pair in a row of {list_files(root)}") from error
            rows[row["id"]] = row
    if not rows:  # as `load_release` has it
        raise UserError(f"no row in {[file.name for file in list_files(root)]}, split `{split}`")
    return rows, faults.found


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value, of a long list to the first two and the last."""
    if isinstance(content, dict | list):
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        for key in keys if len(keys) < 8 or isinstance(content, dict) else [*keys[:2], keys[-1]]:
            yield (*path, key)
            yield from places(content[key], (*path, key))


def replace(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = deepcopy(value)
    return changed


def is_item(content: Any, path: tuple[Any, ...]) -> bool:
    """Whether a way leads to one of several items: without it a file is as good."""
    for key in path:
        content = content[key]
    named = path[-1] in {"questions", "text", "types", "size"}
    return isinstance(path[-1], int) or (isinstance(content, dict) and not named and len(path) < 3)


def name_key(path: tuple[Any, ...]) -> str:
    return next((key for key in reversed(path) if isinstance(key, str)), "")


def dump_lines(items: list[Any]) -> bytes:
    return "\n".join(json.dumps(item) for item in items).encode()


def dump_cells(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def dump_table(rows: list[dict[str, Any]]) -> bytes:
    columns = {
        key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def change_file(file: Path) -> Iterator[tuple[str, Any, bytes]]:
    """Yield key, new value and new content of single changes in one file."""
    content, dump, values = load_content(file)
    for path in places(content):
        for value in values if values is not CELLS or len(path) == 2 else []:
            if value is GONE and values is not CELLS and is_item(content, path):
                continue  # a file with one item less is as good
            try:
                yield name_key(path), value, dump(replace(content, path, value))
            except (pa.ArrowException, ArithmeticError, AttributeError, TypeError, ValueError, csv.Error):
                continue  # no such file can be written


def load_content(file: Path) -> tuple[Any, Callable[[Any], bytes], list[Any]]:
    match file.suffix:
        case ".p":
            return pickle.loads(file.read_bytes()), lambda value: pickle.dumps(value, protocol=2), VALUES
        case ".csv" if file.name == "Questions.csv":
            return list(csv.reader(io.StringIO(file.read_text()))), dump_cells, CELLS
        case ".csv":
            return [file.read_text()], lambda value: "\n".join(map(str, value)).encode(), ["x", "", "\x00"]
        case ".parquet":
            return pq.read_table(file).to_pylist(), dump_table, VALUES
    text = file.read_text()
    try:
        return json.loads(text), lambda value: json.dumps(value).encode(), VALUES
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()], dump_lines, VALUES


def list_files(root: Path) -> list[Path]:
    kinds = {".json", ".csv", ".p", ".parquet"}
    return [file for file in sorted(root.rglob("*")) if file.is_file() and file.suffix in kinds]


def outcome(name: str, root: Path, split: str) -> Any:
    try:
        return read(name, root, split, skip=False)
    except UserError as error:
        return str(error)


def find_splits(name: str, root: Path) -> dict[Path, tuple[str, Rows]]:
    """Return for each file that is read a split that depends on it, and its rows."""
    whole = {split: outcome(name, root, split) for split in load_module(name).SPLITS}
    whole = {split: found for split, found in whole.items() if not isinstance(found, str)}
    used = {}
    for file in list_files(root):
        file.rename(root / "away")
        splits = [split for split, found in whole.items() if outcome(name, root, split) != found]
        (root / "away").rename(file)
        if splits:
            used[file] = (splits[0], whole[splits[0]][0])
    return used


@pytest.fixture
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name = request.getfixturevalue("name")
    importlib.import_module(f"tests.data.releases.test_{ELSEWHERE.get(name, name)}").write_release(tmp_path)
    return tmp_path


def is_legal(name: str, key: str, value: Any, before: Rows, after: Rows) -> bool:
    """Whether rows differ in nothing but what a legal value says."""
    if (name, key, value) in LEFT_OUT:
        return True
    if len(after) != len(before):
        return False
    differing = [
        column
        for old, new in zip(before.values(), after.values(), strict=True)
        for column in old
        if old[column] != new[column]
    ]
    rows = sum(old != new for old, new in zip(before.values(), after.values(), strict=True))
    return rows <= SHARED.get(name, 1) and len(set(differing)) <= 2


def check_message(message: str, file: Path) -> None:
    assert file.stem.split("-")[0] in message, message
    assert re.search(
        r"(item|line|question|problem|reference|annotation|image|category|text|row|number|column)s?`? |`",
        message,
    ), message
    assert len(message) < 1000
    assert "\n" not in message


@pytest.mark.parametrize("name", RELEASES)
def test_a_single_change_gives_rows_or_one_message(name: str, release: Path) -> None:
    used = find_splits(name, release)
    changes = [(file, *change) for file in used for change in change_file(file)]
    assert len(changes) >= 200
    for file, key, value, content in random.Random(0).sample(changes, min(MOST, len(changes))):
        split, before = used[file]
        kept = file.read_bytes()
        file.write_bytes(content)
        case = f"{file.name} {key} {value!r:.20}"
        try:
            found = outcome(name, release, split)
            if isinstance(found, str):
                check_message(found, file)
                skip_it(name, release, split, before, case)
            else:
                assert is_legal(name, key, value, before, found[0]), (case, before, found[0])
        except UserError:
            raise
        except Exception as error:
            raise AssertionError(f"{case}: {error!r}") from error
        finally:
            file.write_bytes(kept)


def skip_it(name: str, root: Path, split: str, before: Rows, case: str) -> None:
    """Check that nothing else is left out or changed where what is wrong may be left out."""
    try:
        after, faults = read(name, root, split, skip=True)
    except UserError:
        return  # the whole file is wrong
    assert faults, case
    if any("is duplicated" in fault for fault in faults):
        return  # the first of the two stays
    for row_id, row in after.items():
        if row_id in before and row != before[row_id]:
            shorter = {column for column in row if row[column] != before[row_id][column]}
            assert shorter <= {"captions", "objects"}, (case, row, before[row_id])
            assert all(set(map(str, row[c])) <= set(map(str, before[row_id][c])) for c in shorter), case


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink()
    match how:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "empty":
            file.touch()
        case "half":
            file.write_bytes(content[: len(content) * 2 // 3])
        case "not utf-8":
            file.write_bytes(content.replace(b"e", b"\xff"))
        case "utf-16":
            file.write_bytes(content.decode("latin1").encode("utf-16"))
        case "text behind":
            file.write_bytes(content + b"\n}x")
        case "twice":
            file.write_bytes(content + content)


DAMAGE = ["missing", "folder", "pipe", "empty", "half", "not utf-8", "utf-16", "text behind", "twice"]


@pytest.mark.parametrize("name", RELEASES)
def test_a_damaged_file_is_named(name: str, release: Path) -> None:
    for file, (split, before) in find_splits(name, release).items():
        kept = file.read_bytes()
        for how in DAMAGE:
            if file.suffix == ".parquet" and how in {"twice", "not utf-8"}:
                continue  # not a text, and its end alone says where what is
            damage(file, how)
            found = outcome(name, release, split)
            if file.name == "ai2d_test_ids.csv" and how in {"half", "not utf-8", "twice"}:
                pass  # any list of numbers is one
            elif how == "missing" and name == "ai2d" and "questions" in file.parts:
                assert isinstance(found, str) or len(found[0]) == len(before) - 2
            else:
                assert isinstance(found, str), (file.name, how, found)
                assert file.stem.split("-")[0] in found, (file.name, how, found)
                assert "\n" not in found
                skip_it(name, release, split, before, f"{file.name} {how}")
            if file.is_dir():
                file.rmdir()
            else:
                file.unlink(missing_ok=True)
            file.write_bytes(kept)
