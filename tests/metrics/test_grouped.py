import pytest

from finetune.errors import UserError
from finetune.metrics.grouped import GroupedAccuracy, GroupedReading

ROWS = [
    {"id": "r", "prediction": prediction, "references": ["yes"], "group": group}
    for prediction, group in [("yes", "comp"), ("yes", "comp"), ("Yes, it is.", "comp"), ("no", "presence")]
]


def test_every_group_that_occurs_has_the_same_weight() -> None:
    assert GroupedAccuracy().compute(ROWS) == {"overall": 50, "average": pytest.approx(100 / 3)}


def test_a_yes_may_be_read_from_a_sentence() -> None:
    assert GroupedAccuracy(GroupedReading.yes_no).compute(ROWS) == {"overall": 75, "average": 50}


def test_the_exact_reading_takes_any_reference() -> None:
    row = {"prediction": "rural", "references": ["urban", "rural"], "group": "rural_urban"}
    assert GroupedAccuracy().score(row) == 100


def test_a_row_without_a_group_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Row `r9`: this metric needs a `group`"):
        GroupedAccuracy().compute([*ROWS, {"id": "r9", "prediction": "yes", "references": ["yes"]}])


def test_the_yes_no_reading_wants_such_references() -> None:
    row = {"id": "r9", "prediction": "rural", "references": ["rural"], "group": "x"}
    with pytest.raises(UserError, match="Row `r9`: expected the reference to be `yes` or `no`"):
        GroupedAccuracy(GroupedReading.yes_no).compute([row])
