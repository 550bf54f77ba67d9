"""On a CPU nothing is recomputed unless asked for; on a GPU what its memory needs."""

import pytest
import torch
from accelerate import PartialState

from finetune.assembly.checkpointing import settle_checkpointing
from finetune.assembly.estimate import RunEstimate
from finetune.config.compose import compose
from finetune.model.published import published_config


def settle(*words: str) -> tuple[bool | None, int | None]:
    options = compose(["recipe=vqav2_lora", *words])
    checkpoint = published_config(options.model.path)
    assert checkpoint is not None
    trainer = settle_checkpointing(options, RunEstimate(options, checkpoint)).trainer
    return trainer.activation_checkpointing, trainer.speed.checkpoint_every


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], (False, None), id="default"),
        pytest.param(["trainer.activation_checkpointing=true"], (True, None), id="every-layer"),
        pytest.param(["trainer.activation_checkpointing=false"], (False, None), id="never"),
        pytest.param(["trainer.speed.checkpoint_every=3"], (True, 3), id="every-third"),
    ],
)
def test_a_cpu_recomputes_what_it_is_asked_to(words: list[str], expected: tuple[bool, int | None]) -> None:
    assert settle(*words) == expected


@pytest.mark.parametrize(
    ("gibibytes", "expected"),
    [
        pytest.param(80, (False, None), id="all-fits"),
        pytest.param(11, (True, 4), id="some"),
        pytest.param(4, (True, 1), id="nothing-fits"),
    ],
)
def test_a_gpu_recomputes_what_its_memory_needs(
    monkeypatch: pytest.MonkeyPatch, gibibytes: int, expected: tuple[bool, int | None]
) -> None:
    monkeypatch.setattr(PartialState(), "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gibibytes << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    assert settle() == expected
    assert settle("trainer.activation_checkpointing=false") == (False, None)
    assert settle("trainer.speed.checkpoint_every=5") == (True, 5)


def test_the_estimate_grows_with_k() -> None:
    options = compose(["recipe=vqav2_lora"])
    checkpoint = published_config(options.model.path)
    assert checkpoint is not None
    estimate = RunEstimate(options, checkpoint)
    estimates = [estimate.memory(every=every).allocated for every in (1, 2, 3, 6, 18, None)]
    assert estimates == sorted(set(estimates))


def test_a_k_without_checkpointing_is_a_contradiction() -> None:
    options = compose(["recipe=quickstart", "trainer.speed.checkpoint_every=2"]).trainer
    assert not list(options.problems("trainer."))
    options.activation_checkpointing = False
    assert list(options.problems("trainer.")) == [
        "trainer.speed.checkpoint_every=2 recomputes activations, trainer.activation_checkpointing=false "
        "does not: give one of them."
    ]
