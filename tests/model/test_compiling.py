"""Compiled layers have the losses and gradients of plain ones; with backends that generate no code."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Batch, Example
from finetune.model.compiling import compiled_layers, plan_compilation
from finetune.model.forward import compute_losses
from finetune.model.surgery import operate
from finetune.speed import SpeedOptions, switched_off

pytestmark = pytest.mark.filterwarnings("ignore")  # torch hides its compiler's own, unless they are errors

Build = Callable[..., PaliGemmaForConditionalGeneration]
ON = SpeedOptions(compile=True)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def adapt(model: PaliGemmaForConditionalGeneration, method: str) -> nn.Module:
    if method == "full":
        return model
    targets = r".*language_model.*_proj"
    config = LoraConfig(r=4, target_modules=targets, use_dora=method == "dora", init_lora_weights=False)
    return get_peft_model(model, config)


def run(
    model: nn.Module, batches: list[Batch], every: int | None, kernel: str, backend: str | None
) -> list[Tensor]:
    """Losses and gradients of a step of all batches; each batch is evaluated in between."""
    config: Any = next(m for n, m in model.named_modules() if n.endswith("language_model")).config
    config._attn_implementation = kernel
    operate(model, SpeedOptions(checkpoint_every=every), activation_checkpointing=every is not None)
    parts = {name: vars(module).get("forward") for name, module in model.named_modules()}
    names = list(model.state_dict())
    technique = plan_compilation(model, ON) if backend else switched_off("compile")
    losses = []
    with compiled_layers(model, technique, backend or ""):
        for batch in batches:
            losses.append(compute_losses(model.train(), batch))
            torch.autograd.backward(losses[-1].sum())
            with torch.no_grad():
                compute_losses(model.eval(), batch)
        assert list(model.state_dict()) == names
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == parts
    return [torch.cat(losses).detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("backbone", "method", "every", "kernel", "backend"),
    [
        pytest.param("gemma", "lora", None, "sdpa", "eager", id="gemma-lora"),
        *(
            pytest.param(*case, marks=pytest.mark.slow, id="-".join(map(str, case)))
            for case in [
                ("gemma", "full", 2, "split_eager", "aot_eager"),
                ("gemma", "lora", None, "split_sdpa", "aot_eager"),
                ("gemma2", "full", 1, "eager", "aot_eager"),
                ("gemma2", "lora", 1, "split_eager", "aot_eager"),
            ]
        ),
    ],
)
def test_compiled_layers_have_the_same_gradients_by_few_graphs_without_a_break(
    random_model: Build,
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
    backbone: str,
    method: str,
    every: int | None,
    kernel: str,
    backend: str,
) -> None:
    def batch(suffixes: tuple[str, ...], words: int, *, shared: bool = False) -> Batch:
        examples = [make_example(suffixes, "c"), make_example("b", "b " * words, seed=1)]
        return Collator(processor, every_suffix=shared)(examples)

    batches = [batch(("a",), 3), batch(("b c d e f",), 6), batch(("a", "b c"), 9, shared=True)]
    models = [adapt(random_model(backbone, num_layers=4, hidden_size=64), method) for _ in range(2)]
    plain = run(models[0], batches, every, kernel, None)
    compiled = run(models[1], batches, every, kernel, backend)
    assert not counters["graph_break"]
    # Of the tower's layers, of the first decoder layer, whose input has no gradient, and of the others; for
    # rows with positions of their own and without.
    assert 3 <= counters["stats"]["unique_graphs"] <= 5
    rounding = 1e-7 * max(gradient.norm() for gradient in plain[1:])
    for one, other in zip(plain, compiled, strict=True):
        assert (one - other).norm() <= 1e-5 * one.norm() + rounding


def test_it_is_off_on_a_cpu_and_refused_where_it_cannot_be_done(random_model: Build) -> None:
    model = random_model(num_layers=2)
    if not torch.cuda.is_available():
        assert plan_compilation(model, SpeedOptions()).detail == "on a CPU it takes longer than it saves"
    assert (
        "trainer.extra.fsdp" in plan_compilation(model, SpeedOptions(), other="trainer.extra.fsdp").detail
    )
    model.model.language_model.layers[0].mlp.up_proj.weight.quant_state = object()
    with pytest.raises(UserError, match="cannot apply: layers quantized by bitsandbytes are not compiled"):
        plan_compilation(model, ON)
    with pytest.raises(UserError, match="does not follow DoRA's layers"):
        plan_compilation(adapt(random_model(num_layers=2), "dora"), ON)
    copied = LoraConfig(target_modules=["linear"], modules_to_save=["language_model.layers.0"])
    with pytest.raises(UserError, match=r"layers copied for peft\.modules_to_save are not compiled"):
        plan_compilation(get_peft_model(random_model(num_layers=2), copied), ON)
    assert not plan_compilation(model, SpeedOptions(compile=False)).is_on
