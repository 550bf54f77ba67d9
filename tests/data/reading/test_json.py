import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.reading import json_stream
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import (
    iterate_json_array,
    iterate_json_object,
    iterate_records,
    read_json,
    read_member,
)
from finetune.data.reading.record import Record
from finetune.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)  # a busy disk is no fault
@given(st.lists(st.dictionaries(st.text(), JSON)), st.integers(1, 30))
def test_items_come_whole_whatever_the_size_of_the_pieces_read(
    tmp_path_factory: pytest.TempPathFactory, items: list[object], chunk: int
) -> None:
    file = tmp_path_factory.mktemp("json") / "x.json"
    file.write_text(json.dumps({"before": 1, "items": items, "after": [2]}, indent=chunk % 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert list(iterate_json_array(file, "items")) == items


def test_a_number_is_not_taken_before_its_last_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 1)
    (tmp_path / "x.json").write_text('{"items": [123, 45]}')
    assert list(iterate_json_array(tmp_path / "x.json", "items")) == [123, 45]


@settings(deadline=None)  # a busy disk is no fault
@given(st.dictionaries(st.text(), JSON), st.lists(JSON), st.integers(1, 30))
def test_an_object_and_an_array_at_the_top_come_whole_too(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object], items: list[object], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("json")
    (folder / "object.json").write_text(json.dumps(values, indent=chunk % 3))
    (folder / "array.json").write_text(json.dumps(items, indent=chunk % 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert list(iterate_json_object(folder / "object.json")) == list(values.items())
        assert list(iterate_json_array(folder / "array.json")) == items


def read_records(file: Path, key: str | None = None) -> list[Record]:
    return [record for _, record in iterate_records(Faults(skip=False), file, key)]


def test_the_array_at_the_top_is_read_wherever_another_of_its_name_lies(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(
        '{"info": {"items": [1], "deep": [{"items": [2]}]}, "z": [5], '
        '"text": "\\"items\\": [3]", "items": [4]}'
    )
    assert list(iterate_json_array(tmp_path / "x.json", "items")) == [4]
    assert read_member(tmp_path / "x.json", "z") == [5]
    assert read_member(tmp_path / "x.json", "deep") is None


BAD_ARRAYS = [
    pytest.param('{"items": [{"a": 1}', "ends in the middle of the array `items`", id="cut behind an item"),
    pytest.param('{"items": [{"a": ', "ends in the middle of the array `items`", id="cut inside an item"),
    pytest.param('{"items": [{"a": "x', "ends in the middle of the array `items`", id="cut inside a text"),
    pytest.param(
        '{"items": [{"a": 1}]', "ends in the middle of the array `items`", id="cut behind the list"
    ),
    pytest.param('{"items": [{"a": 1} {"a": 2}]}', "line 1: not whole JSON .*expected `,`", id="no comma"),
    pytest.param('{"items": [{"a": 1},, {"a": 2}]}', "line 1: not whole JSON", id="two commas"),
    pytest.param('{"items": [{"a": 1},]}', "line 1: not whole JSON", id="a comma behind the last"),
    pytest.param('{"items": [{"a": 1}\n,{"a" 2}]}', "line 2: not whole JSON", id="no colon"),
    pytest.param('{"items": [{"a": 1}]} x', "text after its end", id="text behind"),
    pytest.param('{"items": []}{"items": []}', "text after its end", id="two files in one"),
    pytest.param('{"items": [], "items": [1]}', "the key `items` is at its top twice", id="key twice"),
    pytest.param('{"items": null}', "`items`: expected a list, got null", id="null"),
    pytest.param('{"items": {"a": 1}}', "`items`: expected a list, got an object", id="object"),
    pytest.param('{"other": {"items": []}}', "no array `items`", id="not at the top"),
    pytest.param('["items", []]', "no array `items`", id="a list"),
    pytest.param("", "no array `items`", id="empty"),
    pytest.param(
        '{"items": [{"a": 1, "a": 2}]}', "item 1: the key `a` is in one object twice", id="item key"
    ),
    pytest.param('{"items": [{"a": ' + "[" * 100_000, "nested too deeply", id="deep"),
    pytest.param('{"items": [' + "9" * 5_000 + "]}", "line 1: .*limit", id="5,000 digits"),
    pytest.param('{"items": [7]}', "item 1: expected a JSON object, got int", id="a number"),
]


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize(("text", "message"), BAD_ARRAYS)
def test_what_is_not_a_whole_array_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=f"x.json.*{message}"):
        read_records(tmp_path / "x.json", "items")


def test_a_flawed_item_is_left_out_alone(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}, {"b": [{"c": 1, "c": 1}]}, 7, {"a": 2}]')
    faults = Faults(skip=True)
    records = dict(iterate_records(faults, tmp_path / "x.json"))
    assert records == {1: {"a": 1}, 4: {"a": 2}}
    assert [fault.split(": ")[0] for fault in faults.found] == [
        f"{tmp_path}/x.json item {number}" for number in (2, 3)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"a": [1], "b": [2', "x.json: ends in the middle of the object at its top", id="cut"),
        pytest.param('{"a" 1}', "x.json line 1: not whole JSON .*expected `:`", id="no colon"),
        pytest.param("{a: 1}", "expected a key in double quotes", id="no quotes"),
        pytest.param('{"a": 1} {"b": 2}', "text after its end", id="two objects"),
        pytest.param('[{"a": 1}]', "x.json: no object at its top", id="an array"),
    ],
)
def test_what_is_no_whole_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=message):
        list(iterate_json_object(tmp_path / "x.json"))


READERS: list[Callable[[Path], Any]] = [
    read_json,
    read_records,
    lambda file: list(iterate_json_object(file)),
]


@pytest.mark.parametrize("read", READERS, ids=["whole", "array", "object"])
def test_what_is_not_a_text_file_is_refused_without_waiting(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(UserError, match="No file .*x.json"):
        read(file)
    with pytest.raises(UserError, match="No file"):
        read(tmp_path / ("x" * 300))
    os.mkfifo(file)
    with pytest.raises(UserError, match="x.json: expected a file, got a pipe"):
        read(file)
    with pytest.raises(UserError, match="expected a file, got a folder"):
        read(tmp_path)
    file.unlink()
    for content in (b'[{"a": "\xff"}]', '[{"a": 1}]'.encode("utf-16"), '[{"a": 1}]'.encode("utf-16-le")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"x.json.* not (UTF-8|whole JSON)"):
            read(file)
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(UserError, match="No file .*x.json"):
        read(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").touch(mode=0)
    with pytest.raises(UserError, match="x.json: cannot be read"):
        read_json(tmp_path / "x.json")


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('\ufeff[{"a": 1}]', encoding="utf-8")
    assert read_json(tmp_path / "x.json") == [{"a": 1}] == read_records(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"a"', "here: not whole JSON", id="cut"),
        pytest.param('{"a": 1} 2', "here: there is text after its end", id="text behind"),
        pytest.param(
            '{"a": {"b": 1, "c": 2, "b": 3}}', "the key `b` is in one object twice", id="key twice"
        ),
        pytest.param("[" * 100_000, "here: nested too deeply", id="deep"),
        pytest.param("9" * 5_000, "here: not whole JSON .*limit", id="digits"),
        pytest.param(b"\xff", "here: not UTF-8", id="bytes"),
    ],
)
def test_what_the_standard_decoder_stumbles_over_or_accepts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message):
        read_json(Path("here"))


def test_only_the_item_at_hand_is_in_memory(tmp_path: Path) -> None:
    item = json.dumps({"text": "x" * 1000})
    with (tmp_path / "x.json").open("w") as file:
        file.write('{"others": [' + ",".join([item] * 20_000) + '], "items": [')
        file.write(",".join([item] * 20_000) + "]}")
    tracemalloc.start()
    assert sum(1 for _ in iterate_json_array(tmp_path / "x.json", "items")) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_a_mistake_early_in_a_large_file_is_not_looked_for_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a" 1}, ' + " " * (8 << 20) + "]")
    tracemalloc.start()
    with pytest.raises(UserError, match="line 1"):
        read_records(tmp_path / "x.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


def test_a_record_names_its_place_and_the_keys_it_has(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}, {"b": 2}]')
    first, second = read_records(tmp_path / "x.json")
    assert first["a"] == 1
    with pytest.raises(UserError, match="x.json item 2: no `a`; the keys are: b"):
        second["a"]
