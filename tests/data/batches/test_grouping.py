from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.batches.grouping import GroupedStream, Grouping, Passes
from finetune.data.batches.order import ExampleStream

LENGTHS = np.random.default_rng(0).integers(10, 100, 50)


def draw(size: int, processes: int, passes: int, *, grouping: Grouping, steps: int = 6) -> np.ndarray:
    """Return what each step draws: (steps, examples of a step, 2)."""
    step = Passes(size, processes, passes)
    stream = ExampleStream([len(grouping.lengths)], step.batch * steps, seed=3)
    return np.array(list(GroupedStream(stream, grouping, step))).reshape(steps, step.batch, 2)


def as_sets(steps: np.ndarray) -> list[set[tuple[int, int]]]:
    return [set(map(tuple, step.tolist())) for step in steps]


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 4),
    st.lists(st.integers(1, 9), min_size=1, max_size=30),
)  # fmt: skip
def test_a_step_has_the_examples_that_it_has_without_sorting(
    size: int, processes: int, passes: int, lengths: list[int]
) -> None:
    grouped = draw(size, processes, passes, grouping=Grouping(np.array(lengths)))
    batch = size * processes * passes
    plain = np.array(list(ExampleStream([len(lengths)], batch * 6, seed=3))).reshape(6, batch, 2)
    assert as_sets(grouped) == as_sets(plain)


@given(st.permutations(range(24)))
def test_no_other_way_to_divide_a_step_has_less_padding(lengths: list[int]) -> None:
    step = Passes(size=2, processes=3, passes=4)
    dealt = np.array(lengths)[step.deal(np.array(lengths))]
    # The longest of each pair of neighbors: 23, 21, ... 1.
    assert step.count_padded(dealt) == 2 * sum(range(1, 24, 2))


def test_processes_get_neighbors_in_length_and_take_turns_with_the_longest() -> None:
    lengths = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    step = Passes(size=1, processes=2, passes=4)
    assert lengths[step.deal(lengths)].tolist() == [8, 7, 5, 6, 4, 3, 1, 2]


def test_examples_of_one_length_stay_in_order() -> None:
    assert Passes(2, 1, 3).deal(np.full(6, 7)).tolist() == list(range(6))


@pytest.mark.parametrize("steps", [pytest.param(1, id="one step"), pytest.param(3, id="three steps")])
def test_the_order_follows_from_the_seed_and_goes_on_after_a_resume(steps: int) -> None:
    stream = GroupedStream(ExampleStream([50], 64, seed=1), Grouping(LENGTHS, steps, 4), Passes(4, 1, 2))
    whole = list(stream)
    assert list(stream) == whole
    assert list(islice(stream, 24, None)) == whole[24:]
    assert len(whole) == len(stream) == 64


@pytest.mark.parametrize(
    ("size", "processes", "passes"),
    [pytest.param(4, 1, 4, id="one"), pytest.param(4, 2, 2, id="two"), pytest.param(2, 8, 1, id="eight")],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_any_number_of_processes_takes_the_same_steps(
    size: int, processes: int, passes: int, steps: int
) -> None:
    expected = draw(8, 1, 2, grouping=Grouping(LENGTHS, steps, 8))
    divided = draw(size, processes, passes, grouping=Grouping(LENGTHS, steps, 8))
    assert as_sets(divided) == as_sets(expected)


def test_groups_over_several_steps_cover_each_epoch_once_and_pad_less() -> None:
    step, counts = Passes(4, 1, 1), []
    for steps in (1, 5):
        drawn = draw(4, 1, 1, grouping=Grouping(LENGTHS, steps, 4), steps=25).reshape(-1, 2)
        pairs = sorted(map(tuple, drawn.tolist()))
        assert pairs == [(epoch, index) for epoch in range(2) for index in range(50)]
        counts.append(step.count_padded(LENGTHS[drawn[:, 1]]))
    assert counts[1] < 0.9 * counts[0]


def test_groups_over_several_steps_come_in_random_order() -> None:
    drawn = draw(4, 1, 1, grouping=Grouping(LENGTHS, 12, 4), steps=12)
    longest = LENGTHS[drawn[..., 1]].max(1)
    assert not (np.diff(longest) <= 0).all()
    assert not (np.diff(longest) >= 0).all()
