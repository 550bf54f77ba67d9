from typing import Any

import pytest

from finetune.errors import UserError
from finetune.metrics.metric import Metric, compute_by_group
from finetune.metrics.text import AnyMatch, ExactMatch, score_exact_match


@pytest.mark.parametrize(
    ("prediction", "options", "score"),
    [
        ("cat", {}, 100),
        ("Cat", {}, 0),
        ("Cat", {"lower": True}, 100),
        (" cat", {}, 0),
        (" cat", {"strip": True}, 100),
        ("dog", {}, 100),
        ("", {}, 0),
    ],
)
def test_a_prediction_must_equal_one_reference(
    prediction: str, options: dict[str, bool], score: float
) -> None:
    assert score_exact_match(prediction, ["cat", "dog"], **options) == score


def test_scores_are_means_over_the_set_and_over_each_group() -> None:
    rows = [
        {"prediction": p, "references": ["x"], "group": g}
        for p, g in [("x", "b"), ("y", "b"), ("x", "a"), ("x", None)]
    ]
    assert compute_by_group(ExactMatch(), rows) == {
        "exact_match": 75,
        "n": 4,
        "by_group": {"a": {"exact_match": 100, "n": 1}, "b": {"exact_match": 50, "n": 2}},
    }


def test_without_groups_there_is_no_breakdown() -> None:
    assert compute_by_group(ExactMatch(), [{"prediction": "x", "references": ["x"]}]) == {
        "exact_match": 100,
        "n": 1,
    }


def test_any_match_takes_one_annotator_and_only_the_case_may_be_ignored() -> None:
    row = {"prediction": "Cat", "references": ["dog", "cat", "cow"]}
    assert AnyMatch().compute([row]) == {"any_match": 0}
    assert AnyMatch(lower=True).compute([row, {**row, "prediction": "cat "}]) == {"any_match": 50}


@pytest.mark.parametrize("metric", [ExactMatch(), AnyMatch()])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": "q7", "references": ["x"]},
            "Row `q7`: expected `prediction` to be a string, but got nothing",
        ),
        (
            {"id": "q7", "prediction": [3], "references": ["x"]},
            r"Row `q7`: expected `prediction`.*got \[3\]",
        ),
        ({"id": "q7", "prediction": "x"}, "Row `q7`: expected `references`.*got nothing"),
        ({"id": "q7", "prediction": "x", "references": []}, r"Row `q7`: expected `references`.*got \[\]"),
        ({"id": "q7", "prediction": "x", "references": True}, "Row `q7`: expected `references`.*got True"),
        (
            {"id": "q7", "prediction": "x", "references": [{}]},
            r"Row `q7`: expected `references`.*got \[{}\]",
        ),
    ],
)
def test_a_row_without_texts_is_refused_by_name(metric: Metric, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        metric.score(row)


def test_pix2struct_own_test_scores_the_same() -> None:
    pairs = [
        ("abc", "abc"), ("abc", "Abc"), ("Abc", "abc"), ("100%", "96%"), ("100%", "94%"), ("100%", "0.96"),
        ("100%", "0.94"), ("Don't", "Won't"),
    ]  # fmt: skip
    rows = [{"prediction": prediction, "references": [target]} for prediction, target in pairs]
    assert ExactMatch().compute(rows) == {"exact_match": 12.5}
