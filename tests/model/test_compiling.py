"""Compiled layers have the losses and gradients of plain ones; with a backend that generates no code."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Example
from finetune.model.compiling import compile_layers
from finetune.model.forward import compute_losses
from finetune.model.surgery import operate
from finetune.speed import SpeedOptions

Build = Callable[..., PaliGemmaForConditionalGeneration]
OFF, ON = SpeedOptions(compile=False), SpeedOptions(compile=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_compiled_layers_have_the_same_gradients_without_a_break(
    random_model: Build,
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
    backbone: str,
    checkpointing: bool,
) -> None:
    batches = [
        Collator(processor)([make_example("a", "b " * words), make_example("c d", "e", seed=1)])
        for words in (1, 4, 8, 12)
    ]

    def run(*, compiles: bool) -> tuple[nn.Module, list[Tensor]]:
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(random_model(backbone, num_layers=6), config).train()
        operate(model, OFF, activation_checkpointing=checkpointing)
        if compiles:
            assert compile_layers(model, ON, "aot_eager").is_on
        losses = torch.cat([compute_losses(model, batch) for batch in batches])
        torch.autograd.backward(losses.sum())
        return model, [losses.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    plain, (model, compiled) = run(compiles=False)[1], run(compiles=True)
    assert not counters["graph_break"]
    graphs = counters["stats"]["unique_graphs"]
    assert 2 <= graphs <= 8
    for one, other in zip(plain, compiled, strict=True):
        assert (one - other).norm() <= 1e-5 * one.norm() + 1e-6
    model.eval()
    with torch.no_grad():
        compute_losses(model, batches[0])
    assert counters["stats"]["unique_graphs"] == graphs


def test_it_is_off_on_a_cpu_and_refused_where_it_cannot_be_done(random_model: Build) -> None:
    model = random_model(num_layers=2)
    if not torch.cuda.is_available():
        assert compile_layers(model, SpeedOptions()).detail == "on a CPU it takes longer than it saves"
    model.model.language_model.layers[0].mlp.up_proj.weight.quant_state = object()
    with pytest.raises(UserError, match="compile=true: layers quantized by bitsandbytes are not compiled"):
        compile_layers(model, ON)
    assert not compile_layers(model, replace(ON, compile=False)).is_on
