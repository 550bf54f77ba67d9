import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.data import rows as rows_module
from finetune.data.reading.faults import Faults
from finetune.data.rows import Splits, build_rows, follow_links, hold_out, text_features
from finetune.errors import UserError

FEATURES = text_features("prefix", lists=("suffixes",))


def read_words(faults: Faults, file: str) -> Iterator[dict[str, Any]]:
    for word in Path(file).read_text().split():
        with faults.skipping():
            if word.startswith("bad"):
                raise UserError(f"{file}: {word}.")
            yield {"id": word, "group": None, "image": word, "prefix": "p", "suffixes": [word]}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return tmp_path / "words.txt"


def test_a_fault_stops_the_reading_and_says_how_to_go_on(words: Path) -> None:
    words.write_text("a bad1 b")
    with pytest.raises(UserError, match=r"bad1\. Or leave out what is wrong: dataset\.on_error=skip"):
        build_rows(read_words, FEATURES, paths=("file",), file=str(words))


def test_skipped_faults_are_listed_also_when_the_rows_come_from_the_cache(words: Path) -> None:
    words.write_text("bad0 a bad1 b a")
    for _ in range(2):
        rows, skipped = build_rows(
            read_words, FEATURES, "skip", paths=("file",), origin=str(words), file=str(words)
        )
        assert rows["id"][:] == ["a", "b"]
        assert rows.column_names == list(FEATURES)
        assert sorted(skipped) == [
            f"{words}: bad0.",
            f"{words}: bad1.",
            f"{words}: id `a` is duplicated; ids must be unique.",
        ]


def read_values(faults: Faults, values: list[Any]) -> Iterator[dict[str, Any]]:
    for number, value in enumerate(values):
        where = f"value {number}"
        with faults.skipping():
            yield {"id": value, "group": None, "image": where, "prefix": "p", "suffixes": ["s", None]}


@pytest.mark.parametrize("place", [0, 998, 999, 1000, 1001, 2499])
@pytest.mark.parametrize("unusable", ["\ud800", {"a": 1}, "id 3"])
def test_a_fault_inside_a_batch_is_found_at_its_own_row_and_the_order_stays(
    place: int, unusable: object
) -> None:
    values: list[Any] = [f"id {number}" for number in range(2500)]
    values[1] = "\u202e" + "é" * 5000  # not printable, and long: Arrow is asked for this row alone
    values[place] = unusable
    rows, skipped = build_rows(read_values, FEATURES, "skip", paths=(), values=values)
    # The second of two equal ids is the fault.
    place = 3 if unusable == "id 3" and place == 0 else place
    assert rows["id"][:] == [*values[:place], *values[place + 1 :]]
    [fault] = skipped
    assert fault.startswith(f"value {place}: ")
    with pytest.raises(UserError, match=f"value {place}: "):
        build_rows(read_values, FEATURES, paths=(), values=values)


def test_ids_are_compared_with_those_in_the_temporary_file_and_it_may_be_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = rows_module._open_ids

    def open_full() -> sqlite3.Connection:
        ids = opened()
        ids.execute("PRAGMA max_page_count = 50")
        return ids

    values = [f"{number:0200}" for number in range(5000)]
    _, skipped = build_rows(read_values, FEATURES, "skip", paths=(), values=[*values, *values[::-500]])
    assert len(skipped) == 10
    assert f"value 5000: id `{values[-1]}` is duplicated" in skipped[0]
    monkeypatch.setattr(rows_module, "_open_ids", open_full)
    with pytest.raises(UserError, match=r"full\)\. Make room for it, or name .* SQLITE_TMPDIR"):
        build_rows(read_values, FEATURES, "skip", paths=(), values=values)


def test_a_changed_file_is_read_again_also_inside_a_folder(tmp_path: Path) -> None:
    def read(folder: Path) -> int:
        return len(build_rows(read_folder, FEATURES, paths=("file",), file=str(folder)).rows)

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "words.txt").write_text("a b")
    assert read(folder) == 2
    (folder / "words.txt").write_text("a b c")
    assert read(folder) == 3


def test_a_folder_that_is_called_as_a_split_or_a_separator_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> list[str]:
        rows = build_rows(
            read_lines, FEATURES, paths=("file",), file="words.txt", split="train", separator="."
        ).rows
        return [file["filename"] for file in rows.cache_files]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("a.b")
    (tmp_path / "train").mkdir()
    before = read()
    (tmp_path / "train/notes.txt").write_text("new")
    assert read() == before


def read_lines(faults: Faults, file: str, split: str, separator: str) -> Iterator[dict[str, Any]]:
    for word in Path(file).read_text().split(separator):
        yield {"id": word, "group": None, "image": word, "prefix": split, "suffixes": [word]}


def read_folder(faults: Faults, file: str) -> Iterator[dict[str, Any]]:
    yield from read_words(faults, f"{file}/words.txt")


def test_a_reader_that_yields_nothing_gives_no_rows(words: Path) -> None:
    words.write_text("")
    assert len(build_rows(read_words, FEATURES, paths=("file",), file=str(words)).rows) == 0


def test_rows_of_one_picture_are_held_out_together(words: Path) -> None:
    words.write_text(" ".join(f"w{number}" for number in range(20)))
    rows = build_rows(read_words, FEATURES, paths=("file",), file=str(words)).rows
    rows = rows.map(lambda row: {"image": f"{int(row['id'][1:]) // 4}.png"})
    train, validation, _ = hold_out(rows, 0.4)
    assert (len(train), len(validation)) == (12, 8)
    assert not set(train["image"][:]) & set(validation["image"][:])


def test_links_of_rows_from_elsewhere_are_followed(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    (tmp_path / "link.png").symlink_to("x.png")
    link, target = str(tmp_path / "link.png"), str(tmp_path / "x.png")
    one = Dataset.from_dict({"image": [link, target]})
    several = Dataset.from_dict({"images": [[link], [target, link]]})
    train, validation, _ = follow_links(Splits(one, several))
    assert train["image"][:] == [target, target]
    assert validation["images"][:] == [[target], [target, target]]
