import pytest

from finetune.errors import UserError
from finetune.metrics.yes_no import YesNo, YesNoReading, read_yes_no


@pytest.mark.parametrize(
    ("text", "official", "exact"),
    [
        ("yes", True, True),
        ("Yes", True, True),
        ("no", False, False),
        ("NO", True, False),
        ("No, there is no dog.", False, None),
        ("There is not. Yes.", False, None),
        ("Yes. There is no cat.", True, None),
        ("no.", False, None),
        (",no", False, None),
        ("none", True, None),
        ("banana", True, None),
        ("", True, None),
    ],
)
def test_the_official_reading_takes_all_but_a_no_for_a_yes(
    text: str, official: bool, exact: bool | None
) -> None:
    assert read_yes_no(text) is official
    assert read_yes_no(text, YesNoReading.exact) is exact


ROWS = [
    {"prediction": prediction, "references": [reference]}
    for prediction, reference in [
        ("yes", "yes"),
        ("no", "yes"),
        ("perhaps", "yes"),
        ("yes", "no"),
        ("no", "no"),
        ("perhaps", "no"),
        ("no", "no"),
        ("No", "no"),
    ]
]


def test_scores_are_those_of_yes_and_the_ratio_is_of_predictions() -> None:
    assert YesNo().compute(ROWS) == {
        "accuracy": pytest.approx(500 / 8),
        "precision": 50,
        "recall": pytest.approx(200 / 3),
        "f1": pytest.approx(400 / 7),
        "yes_ratio": 50,
    }


def test_under_exact_what_is_neither_is_wrong_and_no_yes() -> None:
    assert YesNo(YesNoReading.exact).compute(ROWS) == {
        "accuracy": 50,
        "precision": 50,
        "recall": pytest.approx(100 / 3),
        "f1": pytest.approx(40),
        "yes_ratio": 25,
    }


def test_without_any_yes_there_is_nothing_to_divide_by() -> None:
    assert YesNo().compute([{"prediction": "no", "references": ["no"]}]) == {
        "accuracy": 100,
        "precision": 0,
        "recall": 0,
        "f1": 0,
        "yes_ratio": 0,
    }


@pytest.mark.parametrize("references", [["maybe"], ["yes", "no"]])
def test_a_reference_that_is_neither_is_refused_by_name(references: list[str]) -> None:
    with pytest.raises(UserError, match="Row `p1`: expected the reference to be `yes` or `no`"):
        YesNo().score({"id": "p1", "prediction": "yes", "references": references})
