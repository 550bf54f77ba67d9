"""Packing is on where it saves something, and refused where it was asked for and cannot be done."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import PaliGemmaForConditionalGeneration

from finetune.assembly.packing import settle_packing
from finetune.config.compose import compose
from finetune.data.batches.grouping import GroupedStream, Grouping, Passes
from finetune.data.batches.order import ExampleStream
from finetune.errors import UserError
from finetune.model.kernels import use_kernel
from finetune.speed import Technique

LENGTHS = np.random.default_rng(0).integers(260, 700, 200)
Settle = Callable[..., Technique]


@pytest.fixture
def settle(random_model: Callable[..., PaliGemmaForConditionalGeneration]) -> Settle:
    def settle(
        *words: str,
        lengths: np.ndarray | None = LENGTHS,
        kernel: str = "split_eager",
        passes: int = 1,
        dropout: float = 0.0,
        window: int | None = None,
    ) -> Technique:
        adapter = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=dropout)
        base = random_model("gemma2" if window else "gemma", num_layers=1)
        base.config.text_config.sliding_window = window
        model = get_peft_model(base, adapter)
        use_kernel(model, kernel)
        step = Passes(16 // passes, 1, passes)
        stream = ExampleStream([len(LENGTHS)], 320, seed=0)
        order = GroupedStream(stream, Grouping(LENGTHS), step) if passes > 1 else stream
        trainer: Any = SimpleNamespace(model=model, order=order, passes=step)
        return settle_packing(compose(["recipe=quickstart", *words]), trainer, lengths)

    return settle


def test_packing_is_on_where_examples_of_a_pass_differ_in_length(settle: Settle) -> None:
    technique = settle()
    assert technique.is_on
    assert technique.detail.endswith("26.9 % of the tokens would be padding")


@pytest.mark.parametrize(
    ("words", "options", "reason"),
    [
        pytest.param([], {"passes": 16}, "0.0 % of the tokens are padding: too few", id="no padding"),
        pytest.param([], {"lengths": None}, "lengths of the examples are not known", id="no lengths"),
        pytest.param([], {"kernel": "sdpa"}, "with a dense mask (sdpa)", id="dense mask"),
        pytest.param([], {"window": 255}, "longer than the window of attention, 255", id="window"),
        pytest.param([], {"dropout": 0.1}, "dropout would drop other activations", id="dropout"),
        pytest.param(["model.llm_dropout=0.1"], {}, "dropout would drop", id="dropout of branches"),
        pytest.param(["trainer.speed.packing=false"], {}, "by trainer.speed.packing", id="not wanted"),
    ],
)
def test_the_reason_why_nothing_is_packed_is_reported(
    settle: Settle, words: list[str], options: dict[str, Any], reason: str
) -> None:
    technique = settle(*words, **options)
    assert not technique.is_on
    assert reason in technique.detail


@pytest.mark.parametrize("options", [{"passes": 16}, {"lengths": None}, {"dropout": 0.1}])
def test_packing_that_was_asked_for_is_on_wherever_it_can_be(
    settle: Settle, options: dict[str, Any]
) -> None:
    assert settle("trainer.speed.packing=true", **options).is_on


@pytest.mark.parametrize("options", [{"kernel": "sdpa"}, {"window": 255}])
def test_packing_that_was_asked_for_and_cannot_be_done_is_refused(
    settle: Settle, options: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"trainer.speed.packing=true cannot be used here: .*null"):
        settle("trainer.speed.packing=true", **options)
