import numpy as np
from sklearn.datasets import load_digits as load_with_sklearn

from finetune.data.images import Picture
from finetune.data.shipped.digits import load_digits, load_scans


def test_the_split_is_1500_and_297_and_no_scan_stands_in_both() -> None:
    train, test, _ = load_digits(56)
    assert (len(train), len(test)) == (1500, 297)
    assert len(set(train["id"][:]) | set(test["id"][:])) == 1797


def test_the_split_is_the_same_each_time_and_has_every_digit_in_both_parts() -> None:
    first, second = load_digits(56), load_digits(56)
    assert first.validation["id"][:] == second.validation["id"][:]
    for part in (first.train, first.validation):
        assert set(part["group"][:]) == set("0123456789")


def test_a_scan_is_enlarged_to_the_size_asked_for() -> None:
    row = load_digits(24).train[0]
    picture = Picture(row["image"], "row").load()
    assert picture.size == (24, 24)
    assert np.asarray(picture).max() > 200
    assert row["answers"] == [row["group"]]


def test_the_scans_are_those_of_scikit_learn() -> None:
    scans, expected = load_scans(), load_with_sklearn()
    assert np.array_equal(scans.images, expected.images)
    assert np.array_equal(scans.target, expected.target)
