from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor, set_seed

from finetune.data.batches.collator import Collator
from finetune.example import Example
from finetune.model.checkpointing import enable_activation_checkpointing
from finetune.model.dropout import drop_residual_branches
from finetune.model.lora import add_adapter
from finetune.model.options import FreezePolicy, PeftConfig, Trainable
from tests.conftest import labelled_inputs

Build = Callable[..., PaliGemmaForConditionalGeneration]

GEMMAS = pytest.mark.parametrize("text", ["gemma", "gemma2"])


@pytest.fixture
def batch(processor: PaliGemmaProcessor, make_example: Callable[..., Example]) -> dict[str, Any]:
    batch = Collator(processor)([make_example("a red circle"), make_example("blue", seed=1)])
    return {**labelled_inputs(batch), "use_cache": False}


def logits(model: nn.Module, batch: dict[str, Any], seed: int = 0) -> Tensor:
    set_seed(seed)
    answer: Tensor = model(**batch).logits
    return answer


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@GEMMAS
def test_dropout_acts_in_training_alone_and_follows_the_seed(
    random_model: Build, batch: dict[str, Any], text: str
) -> None:
    plain, dropping = random_model(text).eval(), random_model(text).eval()
    drop_residual_branches(dropping, 0.3)
    with torch.no_grad():
        assert torch.equal(logits(plain, batch), logits(dropping, batch))
        dropping.train()
        first = logits(dropping, batch)
        assert torch.equal(first, logits(dropping, batch))
        assert not torch.allclose(first, logits(dropping, batch, seed=1))
        assert not torch.allclose(first, logits(plain.train(), batch))


def test_a_share_of_zero_adds_nothing(random_model: Build) -> None:
    model = random_model()
    before = count_hooks(model)
    drop_residual_branches(model, 0.0)
    assert count_hooks(model) == before
    drop_residual_branches(model, 0.1)
    assert count_hooks(model) == before + 2 * 4


@GEMMAS
def test_numbers_are_dropped_where_big_vision_drops_them_and_the_mean_stays(
    random_model: Build, batch: dict[str, Any], text: str
) -> None:
    model = random_model(text).train()
    layer = model.model.language_model.layers[0]
    behind = {
        "gemma": (layer.self_attn, layer.mlp),
        "gemma2": (layer.post_attention_layernorm, layer.mlp),
    }[text]
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    for branch in behind:
        branch.register_forward_hook(keep)  # before the dropout
    drop_residual_branches(model, 0.25)
    for branch in behind:
        branch.register_forward_hook(keep)  # behind it
    with torch.no_grad():
        logits(model, batch)
    attention, attention_dropped, mlp, mlp_dropped = seen
    for before, after in ((attention, attention_dropped), (mlp, mlp_dropped)):
        kept = after != 0
        assert 1 - kept.float().mean().item() == pytest.approx(0.25, abs=0.03)
        assert torch.allclose(after[kept], before[kept] / 0.75)
        assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_recomputed_activations_are_dropped_again_in_the_same_places(
    random_model: Build, batch: dict[str, Any], adapted: bool
) -> None:
    def gradients(checkpointing: bool, share: float = 0.3) -> list[Tensor]:
        model: nn.Module = random_model()
        if adapted:
            model = add_adapter(
                random_model(), FreezePolicy(Trainable.none, Trainable.none, Trainable.all), PeftConfig()
            )
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        drop_residual_branches(model, share)
        if checkpointing:
            enable_activation_checkpointing(model)
        model.train()
        set_seed(0)
        model(**batch).loss.backward()
        learnt = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        return [gradient for gradient in learnt if gradient is not None]

    whole, recomputed, without = gradients(False), gradients(True), gradients(False, share=0.0)
    assert whole
    for one, other in zip(whole, recomputed, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, without, strict=True))
