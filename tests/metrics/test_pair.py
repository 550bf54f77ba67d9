from typing import Any

import pytest

from finetune.errors import UserError
from finetune.metrics.pair import PairAccuracy


def build_row(group: str | None, right: bool) -> dict[str, Any]:
    return {"id": f"{group}", "group": group, "prediction": "a" if right else "b", "references": ["a"]}


def test_a_pair_is_right_when_both_of_its_rows_are_wherever_they_stand() -> None:
    answers = [("1", True), ("2", True), ("3", False), ("1", True), ("2", False), ("3", False)]
    rows = [build_row(group, right) for group, right in answers]
    assert PairAccuracy().compute(rows) == {"pair_accuracy": pytest.approx(100 / 3)}
    assert [PairAccuracy().score(row) for row in rows] == [100, 100, 0, 100, 0, 0]


@pytest.mark.parametrize("count", [1, 3])
def test_a_group_that_is_no_pair_is_refused(count: int) -> None:
    rows = [build_row("7", True)] * count
    with pytest.raises(UserError, match=f"a pair is two rows with the same `group`, but {count} have `7`"):
        PairAccuracy().compute(rows)


def test_a_row_without_a_group_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Row `None`: this metric needs a `group`"):
        PairAccuracy().compute([build_row(None, True)])
