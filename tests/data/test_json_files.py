import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import json_files
from finetune.data.json_files import (
    iterate_json_array,
    iterate_json_lines,
    iterate_json_object,
    iterate_records,
    pick,
    read_json,
)
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
        patch.setattr(json_files, "_CHUNK", chunk)
        assert list(iterate_json_array(file, "items")) == items


def test_a_number_is_not_taken_before_its_last_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", 1)
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
        patch.setattr(json_files, "_CHUNK", chunk)
        assert list(iterate_json_object(folder / "object.json")) == list(values.items())
        assert list(iterate_json_array(folder / "array.json")) == items


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"a": [1], "b": [2', "x.json: ends in the middle of the object at its top", id="cut"),
        pytest.param('{"a" 1}', "ends in the middle of the object at its top .*no `:`", id="no colon"),
        pytest.param('[{"a": 1}]', "x.json: no object at its top", id="an array"),
    ],
)
def test_what_is_no_whole_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=message):
        list(iterate_json_object(tmp_path / "x.json"))


def test_a_record_names_its_place_and_the_keys_it_has(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}, {"b": 2}, 3]')
    records = iterate_records(tmp_path / "x.json")
    assert next(records)["a"] == 1
    with pytest.raises(UserError, match="x.json item 2: no `a`; the keys are: b"):
        next(records)["a"]
    with pytest.raises(UserError, match="x.json item 3: expected a JSON object, got int"):
        next(records)


def test_a_whole_file_is_read_or_named(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(UserError, match="No file .*x.json"):
        read_json(file)
    file.write_text('\ufeff{"a": [1]}', encoding="utf-8")
    assert read_json(file) == {"a": [1]}
    file.write_bytes(b'{"a": "\xff')
    with pytest.raises(UserError, match="x.json: not whole JSON"):
        read_json(file)


def test_lines_come_with_their_numbers_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"a": 1}\n\n[2]\n{"a"\n')
    lines = iterate_json_lines(file)
    assert [next(lines), next(lines)] == [(f"{file} line 1", {"a": 1}), (f"{file} line 3", [2])]
    with pytest.raises(UserError, match="x.json line 4: not whole JSON"):
        next(lines)
    with pytest.raises(UserError, match="No file"):
        next(iterate_json_lines(tmp_path / "y.json"))


def test_values_are_picked_in_the_order_of_the_keys() -> None:
    assert pick({"a": 1, "b": None, "c": 3}, "here", "c", "b") == (3, None)
    with pytest.raises(UserError, match="here: no `d`; the keys are: a"):
        pick({"a": 1}, "here", "a", "d")
    with pytest.raises(UserError, match="here: expected a JSON object, got list"):
        pick([], "here", "a")
