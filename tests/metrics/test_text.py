import pytest

from finetune.metrics.metric import compute_by_group
from finetune.metrics.text import ExactMatch, score_exact_match


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
