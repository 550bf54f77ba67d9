import math

import pytest

from finetune.metrics.cider import compute_cider_d


def test_captions_equal_to_their_references_score_ten() -> None:
    captions = ["a cat on a mat".split(), "two dogs in the snow".split()]
    assert compute_cider_d(captions, [[caption] for caption in captions]) == pytest.approx([10, 10])


def test_one_picture_alone_scores_zero() -> None:
    caption = "a cat on a mat".split()
    assert compute_cider_d([caption], [[caption]]) == [0]


def test_words_that_every_picture_has_weigh_nothing() -> None:
    references = [["a cat".split()], ["a dog".split()]]
    # Of one word only `cat` has weight; of two words there is one run, which differs.
    assert compute_cider_d(["a cat".split(), "a bird".split()], references)[1] == 0
    assert compute_cider_d(["the cat".split(), "a dog".split()], references)[0] == pytest.approx(
        10 / 4 * math.log(2) ** 2 / (math.sqrt(2) * math.log(2) * math.log(2))
    )


def test_a_word_repeated_wins_nothing_and_length_is_punished_by_the_number_of_word_pairs() -> None:
    references = [[["cat"]], [["dog"]]]
    once = compute_cider_d([["cat"], ["dog"]], references)[0]
    assert once == pytest.approx(10 / 4)
    twice = compute_cider_d([["cat", "cat", "cat"], ["dog"]], references)[0]
    assert twice == pytest.approx(once / 3 * math.exp(-(2**2) / (2 * 6**2)))


def test_references_count_the_same() -> None:
    references = [[["cat"], ["bird"]], [["dog"]]]
    assert compute_cider_d([["cat"], ["dog"]], references) == pytest.approx([10 / 4 / 2, 10 / 4])
