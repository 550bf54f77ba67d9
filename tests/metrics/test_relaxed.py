import pytest

from finetune.errors import UserError
from finetune.metrics.relaxed import RelaxedAccuracy, score_relaxed_accuracy


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("95", "100", True),
        ("105", "100", True),
        ("105.01", "100", False),
        ("94.99", "100", False),
        ("-105", "-100", True),
        ("0", "0", True),
        ("0.0", "0", False),
        ("50%", "0.5", True),
        ("50%", "50", False),
        ("52%", "50%", True),
        ("1,000", "1000", False),
        ("$5", "5", False),
        ("2019", "2020", True),
        ("Yes", "yes", True),
        ("yes.", "yes", False),
        ("Yes", "yes.", False),
        ("0", "0.0", False),
        ("0.5", "50%", True),
        ("50", "50%", False),
        ("1000", "1,000", False),
        ("2020", "2019", True),
        ("nan", "nan", False),
        ("inf", "inf", False),
        ("nan", "3", False),
        ("3", "inf", False),
        ("", "3", False),
        ("%", "3", False),
    ],
)
def test_numbers_may_be_five_percent_off_and_words_must_be_equal(
    prediction: str, reference: str, right: bool
) -> None:
    assert score_relaxed_accuracy(prediction, [reference]) == 100 * right


def test_one_of_several_references_is_enough() -> None:
    assert score_relaxed_accuracy("7", ["x", "100", "7.1"]) == 100


def test_white_space_and_case_are_options() -> None:
    rows = [{"prediction": text, "references": [text.strip().lower()]} for text in ("Red", " red", "5% ")]
    assert RelaxedAccuracy().compute(rows) == {"relaxed_accuracy": pytest.approx(100 / 3)}
    assert RelaxedAccuracy(strip=True).compute(rows) == {"relaxed_accuracy": 100}
    assert RelaxedAccuracy(case_sensitive=True).compute(rows) == {"relaxed_accuracy": 0}


def test_groups_have_the_same_weight_whatever_their_size() -> None:
    rows = [
        {"prediction": prediction, "references": ["1"], "group": group}
        for prediction, group in [
            ("1", "human"),
            ("2", "augmented"),
            ("2", "augmented"),
            ("1", "augmented"),
        ]
    ]
    assert RelaxedAccuracy().compute(rows) == {
        "relaxed_accuracy": 50,
        "mean_of_groups": pytest.approx(200 / 3),
    }


def test_pix2struct_own_test_scores_the_same() -> None:
    pairs = [
        ("abc", "abc"), ("abc", "Abc"), ("Abc", "abc"), ("100%", "96%"), ("100%", "94%"), ("100%", "0.96"),
        ("100%", "0.94"), ("Don't", "Won't"),
    ]  # fmt: skip
    rows = [{"prediction": prediction, "references": [target]} for prediction, target in pairs]
    assert RelaxedAccuracy().compute(rows) == {"relaxed_accuracy": 62.5}


def test_a_row_without_a_prediction_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Row `c1`: expected `prediction`"):
        RelaxedAccuracy().score({"id": "c1", "references": ["1"]})
