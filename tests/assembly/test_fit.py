"""What is proposed fits, keeps the batch of a step, and is what a run would then need."""

import pytest

from finetune.assembly.estimate import RunEstimate
from finetune.assembly.fit import describe_fit, fits, propose_fit
from finetune.assembly.lengths import RowLengths
from finetune.assembly.trainer import divide_run_batch
from finetune.config.compose import compose
from finetune.model.published import published_config

GB = 10**9
SHORT = RowLengths(32, 20.0, 8, 4.0)


def estimate(*words: str) -> RunEstimate:
    options = compose(list(words))
    checkpoint = published_config(options.model.path)
    assert checkpoint is not None
    return RunEstimate(options, checkpoint, SHORT)


@pytest.mark.parametrize("batch", [["trainer.global_batch_size=32"], ["trainer.global_batch_size=null"]])
def test_the_words_give_a_run_that_fits_with_the_same_batch(batch: list[str]) -> None:
    words = ["recipe=vqav2_lora", *batch, "trainer.per_device_train_batch_size=32"]
    run = estimate(*words)
    proposal = propose_fit(run, 10 * GB)
    assert proposal is not None
    other = estimate(*words, *proposal.words)
    memory = other.memory(every=other.checkpoint_every)
    assert fits(memory, 10 * GB)
    assert not fits(run.memory(every=None), 10 * GB)
    assert memory.total == proposal.memory.total
    size, accumulation = divide_run_batch(other.options.trainer, 1)
    assert size * accumulation == 32


def test_nothing_is_recomputed_where_enough_examples_fit() -> None:
    proposal = propose_fit(estimate("recipe=vqav2_lora"), 24 * GB)
    assert proposal is not None
    assert not any("checkpoint" in word for word in proposal.words)
    assert proposal.examples >= 8


def test_where_nothing_fits_another_method_is_named() -> None:
    text = describe_fit(estimate("recipe=vqav2_full"), 16 * GB)
    assert "does not fit into 14.9 GiB" in text
    assert "  peft=qlora" in text


def test_words_that_only_make_a_run_faster_say_so() -> None:
    run = estimate("recipe=vqav2_lora", "trainer.per_device_train_batch_size=1")
    assert " as it is (" in describe_fit(run, 24 * GB)
    assert "), and faster with these words: " in describe_fit(run, 24 * GB)


def test_words_that_have_to_go_are_named() -> None:
    command = ["python", "-m", "finetune", "recipe=vqav2_lora", "trainer.per_device_train_batch_size=32"]
    run = estimate(*command[3:], "trainer.global_batch_size=32")
    text = describe_fit(run, 8 * GB, "a GPU of 8GB", command)
    assert text.startswith("fits into a GPU of 8GB (7.5 GiB) with these words: ")
    assert text.endswith("   in place of trainer.per_device_train_batch_size=32")


def test_full_tuning_is_offered_an_optimizer_without_a_copy_of_the_weights() -> None:
    run = estimate("recipe=vqav2_full", "freeze=vision")
    text = describe_fit(run, 48 * GB)
    assert "  trainer.optim=adamw_torch_fused trainer." in text
    other = estimate("recipe=vqav2_full", "freeze=vision", "trainer.optim=adamw_torch_fused")
    assert propose_fit(other, 48 * GB) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["recipe=vqav2_full", "model=paligemma2_10b"],
            "What needs the least does not fit either:\n  peft=qlora model.path=google/paligemma2-3b-",
            marks=pytest.mark.slow,
            id="with everything smaller",
        ),
        pytest.param(["recipe=vqav2_qlora"], "and nothing needs less", id="as small as it gets"),
    ],
)
def test_where_nothing_at_all_fits_the_least_is_named(words: list[str], message: str) -> None:
    text = describe_fit(estimate(*words), GB)
    assert "does not fit into 0.9 GiB: one example needs" in text
    assert message in text
