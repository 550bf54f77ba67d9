import pytest

from finetune.errors import UserError
from finetune.metrics.counting import Counting, normalize_count, read_count


@pytest.mark.parametrize(
    ("text", "numeral"),
    [
        ("none", "0"),
        ("zero", "0"),
        ("None", "0"),
        ("TEN", "10"),
        ("thirteen", "13"),
        ("twenty", "20"),
        ("twenty one", "twenty one"),
        (" two", " two"),
        ("7", "7"),
    ],
)
def test_number_words_become_numerals_and_white_space_stays(text: str, numeral: str) -> None:
    assert normalize_count(text) == numeral


@pytest.mark.parametrize("text", ["", "many", "2.0", "-1", " 3", "²", "1" * 5000])
def test_other_text_is_no_count(text: str) -> None:
    assert read_count(text) is None


def test_errors_are_capped_and_an_answer_that_is_no_number_costs_the_cap() -> None:
    rows = [
        {"prediction": prediction, "references": ["three"]}
        for prediction in ("3", "Three", "4", "5", "9999", "some", "07")
    ]
    assert Counting().compute(rows) == {
        "accuracy": pytest.approx(200 / 7),
        "mae": pytest.approx((0 + 0 + 1 + 2 + 20 + 20 + 4) / 7),
        "within_1": pytest.approx(300 / 7),
    }


def test_a_count_above_fifteen_is_as_good_as_any() -> None:
    assert Counting().score({"prediction": "40", "references": ["40"]}) == 100


def test_a_reference_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"Row `t1`: expected the reference to be a number.*'a few'"):
        Counting().score({"id": "t1", "prediction": "3", "references": ["a few"]})
