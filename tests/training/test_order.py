from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.training.order import ExampleStream, count_steps


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 5))
def test_each_epoch_holds_every_example_once(examples: int, draws: int, seed: int) -> None:
    drawn = list(ExampleStream(examples, draws, seed))
    assert len(drawn) == draws
    for epoch in range(draws // examples):
        part = drawn[epoch * examples : (epoch + 1) * examples]
        assert sorted(part) == [(epoch, index) for index in range(examples)]


def test_the_order_is_a_function_of_the_seed() -> None:
    assert list(ExampleStream(100, 250, 1)) == list(ExampleStream(100, 250, 1))
    assert list(ExampleStream(100, 250, 1)) != list(ExampleStream(100, 250, 2))


def test_epochs_differ_and_a_longer_run_begins_as_a_shorter_one() -> None:
    drawn = [index for _, index in ExampleStream(100, 200, 0)]
    assert drawn[:100] != drawn[100:]
    assert list(islice(ExampleStream(100, 999, 0), 150)) == list(ExampleStream(100, 150, 0))


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "max_steps", "steps"),
    [(658_111, 256, 10, -1, 25_707), (1500, 32, 4, -1, 188), (3, 8, 1, -1, 1), (1500, 32, 4, 20, 20)],
)
def test_steps_are_rounded_as_in_big_vision(
    examples: int, batch: int, epochs: float, max_steps: int, steps: int
) -> None:
    assert count_steps(examples, batch, epochs, max_steps) == steps
