import math

import pytest

from finetune.metrics.bleu import compute_bleu


def test_a_caption_equal_to_a_reference_scores_one() -> None:
    words = "a dog on a mat".split()
    assert compute_bleu([words], [[["a", "cat"], words]]) == pytest.approx([1, 1, 1, 1])


def test_a_word_matches_no_more_often_than_in_the_reference_that_has_it_most() -> None:
    references = [["the cat is the cat".split(), "the the the".split()]]
    assert compute_bleu(["the the the the".split()], references)[0] == pytest.approx(3 / 4)


def test_a_short_caption_is_punished_by_the_nearest_length_the_shorter_of_two() -> None:
    references = [["a b c d e f".split(), "a b".split()]]
    assert compute_bleu(["a b c d".split()], references)[0] == pytest.approx(1)
    assert compute_bleu([["a"]], references)[0] == pytest.approx(math.exp(1 - 2))


def test_counts_are_summed_over_the_set_before_they_are_divided() -> None:
    references = [["a b c d".split()], [["x", "y"]]]
    assert compute_bleu(["a b c d".split(), ["q", "r"]], references)[0] == pytest.approx(4 / 6)


def test_without_four_words_in_a_row_bleu_4_is_small_but_not_zero() -> None:
    bleu = compute_bleu(["a b c x".split()], [["a b c d".split()]])
    assert 0 < bleu[3] < 1e-3
    assert bleu[3] == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1e-15) ** 0.25, rel=1e-6)
