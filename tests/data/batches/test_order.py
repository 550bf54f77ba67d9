from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.batches.order import ExampleStream, count_steps, divide_batch
from finetune.errors import UserError


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 5))
def test_each_epoch_holds_every_example_once(examples: int, draws: int, seed: int) -> None:
    drawn = list(ExampleStream([examples], draws, seed))
    assert len(drawn) == draws
    for epoch in range(draws // examples):
        part = drawn[epoch * examples : (epoch + 1) * examples]
        assert sorted(part) == [(epoch, index) for index in range(examples)]


def test_the_order_is_a_function_of_the_seed() -> None:
    assert list(ExampleStream([100], 250, 1)) == list(ExampleStream([100], 250, 1))
    assert list(ExampleStream([100], 250, 1)) != list(ExampleStream([100], 250, 2))


def test_epochs_differ_and_a_longer_run_begins_as_a_shorter_one() -> None:
    drawn = [index for _, index in ExampleStream([100], 200, 0)]
    assert drawn[:100] != drawn[100:]
    assert list(islice(ExampleStream([100], 999, 0), 150)) == list(ExampleStream([100], 150, 0))


@pytest.mark.parametrize(
    ("asked", "processes", "divided"),
    [
        pytest.param((None, 8, 4), 2, (8, 4), id="as given"),
        pytest.param((256, 8, 1), 1, (8, 32), id="one device"),
        pytest.param((256, 8, 1), 8, (8, 4), id="eight devices"),
        pytest.param((32, 32, 1), 2, (16, 1), id="smaller than what fits"),
        pytest.param((36, 8, 1), 1, (6, 6), id="largest part that fits evenly"),
    ],
)
def test_the_global_batch_is_the_same_on_any_number_of_devices(
    asked: tuple[int | None, int, int], processes: int, divided: tuple[int, int]
) -> None:
    size, passes = divide_batch(*asked, processes)
    assert (size, passes) == divided
    assert asked[0] is None or size * passes * processes == asked[0]


def test_a_batch_that_cannot_be_divided_evenly_is_refused() -> None:
    with pytest.raises(UserError, match="Choose a multiple of 3"):
        divide_batch(32, 8, 1, 3)


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "max_steps", "steps"),
    [(658_111, 256, 10, -1, 25_707), (1500, 32, 4, -1, 188), (3, 8, 1, -1, 1), (1500, 32, 4, 20, 20)],
)
def test_steps_are_rounded_as_in_big_vision(
    examples: int, batch: int, epochs: float, max_steps: int, steps: int
) -> None:
    assert count_steps(examples, batch, epochs, max_steps) == steps
