import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import UserError
from finetune.metrics.fields import name_row
from finetune.metrics.jsonl import JsonlRows, Selection
from finetune.metrics.metric import compute_by_group
from finetune.metrics.text import ExactMatch

ROWS = st.lists(
    st.fixed_dictionaries({"prediction": st.text(max_size=3), "group": st.sampled_from(["a", "b", None])}),
    min_size=1,
    max_size=20,
)


@given(ROWS)
def test_rows_on_disk_score_as_rows_in_memory(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    rows = [{**row, "references": ["a", ""]} for row in rows]
    file = tmp_path_factory.mktemp("rows") / "x.jsonl"
    file.write_text("\n\n".join(json.dumps(row) for row in rows))
    stored = JsonlRows(file)
    assert list(stored) == rows
    assert compute_by_group(ExactMatch(), stored) == compute_by_group(ExactMatch(), rows)
    stored.close()


@pytest.mark.parametrize("rows", [list(range(10)), Selection(list(range(20)), range(10))])
def test_a_selection_is_a_sequence(rows: Sequence[int]) -> None:
    chosen = Selection(rows, [7, 1, 3])
    assert list(chosen) == [7, 1, 3]
    assert list(chosen[1:]) == [1, 3]
    assert len(chosen) == 3


def test_rows_are_read_from_the_end_and_in_slices(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"n": 0}\n{"n": 1}\n{"n": 2}')
    rows = JsonlRows(tmp_path / "x.jsonl")
    assert rows[-1] == {"n": 2}
    assert [row["n"] for row in rows[::2]] == [0, 2]
    rows.close()


def test_a_name_that_no_file_can_have_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File name too long"):
        JsonlRows(tmp_path / ("x" * 300))


def test_rows_know_their_line_behind_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('\n{"n": 0}\n \n\n{"n": 1}\n\n{"n": 2, "id": "7"}')
    rows = JsonlRows(tmp_path / "x.jsonl", "data")
    assert [name_row(row) for row in rows] == ["data line 2", "data line 5", "Row `7` (data line 7)"]
    rows.close()
