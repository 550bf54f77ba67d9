import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data import json_array
from finetune.data.json_array import iterate_json_array

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(st.dictionaries(st.text(), JSON)), st.integers(1, 30))
def test_items_come_whole_whatever_the_size_of_the_pieces_read(
    tmp_path_factory: pytest.TempPathFactory, items: list[object], chunk: int
) -> None:
    file = tmp_path_factory.mktemp("json") / "x.json"
    file.write_text(json.dumps({"before": 1, "items": items, "after": [2]}, indent=chunk % 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK", chunk)
        assert list(iterate_json_array(file, "items")) == items


def test_a_number_is_not_taken_before_its_last_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_array, "_CHUNK", 1)
    (tmp_path / "x.json").write_text('{"items": [123, 45]}')
    assert list(iterate_json_array(tmp_path / "x.json", "items")) == [123, 45]
