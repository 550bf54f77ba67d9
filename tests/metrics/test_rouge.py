import pytest

from finetune.metrics.rouge import compute_rouge_l, score_rouge_l


def test_precision_and_recall_may_come_from_different_references() -> None:
    prediction = "a b c d".split()
    long, short = "a b c d e f g h".split(), "a b".split()
    precision, recall, beta2 = 1, 1, 1.2**2
    assert score_rouge_l(prediction, [long, short]) == pytest.approx(
        (1 + beta2) * precision * recall / (recall + beta2 * precision)
    )
    assert score_rouge_l(prediction, [long]) == pytest.approx((1 + beta2) * 0.5 / (0.5 + beta2))


def test_words_need_not_stand_together_but_keep_their_order() -> None:
    assert score_rouge_l("a x b y c".split(), ["a b c".split()]) == pytest.approx(
        2.44 * 0.6 / (1 + 1.44 * 0.6)
    )
    assert score_rouge_l(["b", "a"], [["a", "b"]]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [([], [["a"]], 0), (["a"], [[]], 0), (["a"], [["b"]], 0), ([], [[]], 1)],
)
def test_no_words_divide_nothing(prediction: list[str], references: list[list[str]], score: float) -> None:
    assert score_rouge_l(prediction, references) == score


def test_the_set_scores_the_mean() -> None:
    assert compute_rouge_l([["a"], ["b"]], [[["a"]], [["a"]]]) == 0.5
