"""Two runs on the same rows, beside independent implementations."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from finetune.comparison.pairs import compare_pair, describe_pair, identify, is_real
from finetune.metrics.anls import Anls
from finetune.metrics.text import ExactMatch
from tests.comparison.conftest import rows_of


def draw_answers(seed: int, correct: float, count: int = 200) -> list[str]:
    drawn = np.random.default_rng(seed).random(count) < correct
    return ["7" if one else "1" for one in drawn]


@pytest.mark.parametrize(("correct", "real"), [(0.62, False), (0.9, True)])
def test_the_interval_of_the_difference_is_that_of_scipy(correct: float, real: bool) -> None:
    first, second = rows_of(draw_answers(1, 0.6)), rows_of(draw_answers(2, correct))
    pair = compare_pair(ExactMatch(), first, second)
    assert pair is not None
    found = pair.differences["exact_match"]
    scores = [np.array([row["score"] for row in rows]) for rows in (second, first)]
    expected = stats.bootstrap(
        scores,
        lambda a, b, axis=-1: a.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.value == pytest.approx(scores[0].mean() - scores[1].mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert is_real(found) is real
    (line, *_) = describe_pair(pair, ("a", "b"), "exact_match")
    assert ("is more than chance" in line) is real
    assert ("may be chance" in line) is not real


def test_rows_that_differ_come_with_the_largest_gain_first() -> None:
    first, second = rows_of(["7", "1", "7", "2"]), rows_of(["7", "7", "1", "3"])
    pair = compare_pair(ExactMatch(), first, second)
    assert pair is not None
    assert [(one.key, one.gain) for one in pair.differing] == [
        (("1",), 100), (("2",), -100), (("3",), 0),
    ]  # fmt: skip
    assert describe_pair(pair, ("a", "b"), "exact_match")[1] == (
        "3 answers differ: 1 are better in b, 1 in a."
    )


def test_only_the_same_questions_are_compared() -> None:
    first = rows_of(["7"] * 5)
    second = [*rows_of(["1"] * 3), *rows_of(["1"] * 6, truth="8")[3:]]
    pair = compare_pair(ExactMatch(), first, second[::-1])
    assert pair is not None
    assert (pair.common, pair.alone) == (3, (2, 3))
    assert "2 of a and 3 of b are left out" in describe_pair(pair, ("a", "b"), "exact_match")[2]
    assert compare_pair(ExactMatch(), first, rows_of(["8"] * 5, truth="8")) is None


def test_several_prompts_about_one_image_are_rows_of_their_own() -> None:
    def ask(answers: list[str]) -> list[dict[str, Any]]:
        return [{**row, "id": "image", "prefix": f"detect {n}"} for n, row in enumerate(rows_of(answers))]

    pair = compare_pair(Anls(), ask(["7", "1"]), ask(["1", "1"])[::-1])
    assert pair is not None
    assert pair.common == 2
    assert [one.key for one in pair.differing] == [("image", "detect 0")]


def test_a_lower_score_is_a_gain_where_lower_is_better() -> None:
    from finetune.metrics.edit import EditRate

    metric = EditRate()
    first, second = rows_of(["17"]), rows_of(["7"])
    first[0]["score"], second[0]["score"] = metric.score(first[0]), metric.score(second[0])
    pair = compare_pair(metric, first, second)
    assert pair is not None
    assert pair.differing[0].gain > 0


def test_the_same_questions_have_one_digest_whatever_the_answers_and_their_order() -> None:
    rows = rows_of(["7", "1", "2"])
    assert identify(rows) == identify(rows_of(["1", "1", "1"])[::-1])
    assert identify(rows) != identify(rows_of(["7", "1"]))
    assert identify(rows) != identify(rows_of(["7", "1", "2"], truth="8"))
