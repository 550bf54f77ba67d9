from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from finetune.assembly.grouping import choose_grouping
from finetune.speed import SpeedOptions
from finetune.training.options import TrainerConfig

LENGTHS = np.random.default_rng(0).integers(260, 700, 200)


def choose(lengths: np.ndarray | None = LENGTHS, passes: int = 4, **speed: Any) -> tuple[Any, Any]:
    arguments = TrainingArguments(
        per_device_train_batch_size=8, gradient_accumulation_steps=passes, use_cpu=True, bf16=False
    )
    options = TrainerConfig(per_device_train_batch_size=8, speed=SpeedOptions(**speed))
    return choose_grouping(options, lengths, arguments)


def test_examples_are_sorted_and_the_log_says_what_it_saves() -> None:
    grouping, technique = choose()
    assert technique.is_on
    assert (grouping.steps, grouping.size) == (1, 8)
    after, before = (float(text.split()[-1]) for text in technique.detail.split(" %")[:2])
    assert 2 * after < before


def test_groups_of_several_steps_are_divided_as_for_one_process() -> None:
    grouping, technique = choose(passes=1, group_steps=16)
    assert (grouping.steps, grouping.size) == (16, 8)
    assert "16 steps, which changes" in technique.detail


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"passes": 1}, "a step is one forward pass", id="one pass"),
        pytest.param({"lengths": None}, "lengths of the examples are not known", id="no lengths"),
        pytest.param({"lengths": np.full(200, 260)}, "the same length", id="one length"),
        pytest.param({"group_lengths": False}, "by trainer.speed.group_lengths", id="not wanted"),
    ],
)
def test_the_reason_why_nothing_is_sorted_is_reported(options: dict[str, Any], reason: str) -> None:
    grouping, technique = choose(**options)
    assert grouping is None
    assert not technique.is_on
    assert reason in technique.detail
