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
    assert "does not fit into 0.9 GiB: one example takes" in describe_fit(
        estimate("recipe=vqav2_qlora"), GB
    )
