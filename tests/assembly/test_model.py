"""What divides the weights among devices, and what does not go together with compiled layers."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PaliGemmaForConditionalGeneration

from finetune.assembly.model import find_sharding, settle_compilation
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.training.options import TrainerConfig


@pytest.mark.parametrize(
    ("extra", "environment", "name"),
    [
        pytest.param({}, {}, None, id="none"),
        pytest.param({"fsdp": ""}, {"ACCELERATE_USE_FSDP": "false"}, None, id="empty"),
        pytest.param({"fsdp": "full_shard"}, {}, "trainer.extra.fsdp", id="fsdp"),
        pytest.param({"deepspeed": {"stage": 3}}, {}, "trainer.extra.deepspeed", id="deepspeed"),
        pytest.param({}, {"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP", id="launcher"),
    ],
)
def test_what_divides_the_weights_is_found(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], environment: dict[str, str], name: str | None
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert find_sharding(TrainerConfig(extra=extra)) == name


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("+trainer.extra.torch_compile=true", "trainer.extra.torch_compile"),
        ("+trainer.extra.fsdp=full_shard", "trainer.extra.fsdp"),
        ("trainer.speed.packing=true", "trainer.speed.packing"),
    ],
)
def test_layers_are_not_compiled_with_what_does_not_go_together(
    random_model: Callable[..., PaliGemmaForConditionalGeneration], word: str, name: str
) -> None:
    model, words = random_model(num_layers=1), ["recipe=vqav2_lora", word]
    assert settle_compilation(compose(words), model).detail == f"it does not go together with {name}"
    with pytest.raises(UserError, match=f"compile=true cannot apply: it does not go together with {name}"):
        settle_compilation(compose([*words, "trainer.speed.compile=true"]), model)
