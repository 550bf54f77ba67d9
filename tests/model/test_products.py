from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional
from transformers import PaliGemmaForConditionalGeneration

from finetune.model.products import find_products, multiplied_by_onednn

pytestmark = pytest.mark.skipif(
    find_products(nn.Linear(1, 1)) == [],
    reason="PyTorch itself chooses how to multiply on this machine",
)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 200), nn.GELU(), nn.Linear(200, 96, bias=False))


def test_products_are_those_of_pytorch_but_for_rounding(model: nn.Sequential) -> None:
    x = torch.randn(3, 80, 96)
    layers = find_products(model)
    assert len(layers) == 2
    with torch.no_grad():
        expected = model(x)
        with multiplied_by_onednn(layers):
            assert all("forward" in vars(layer.module) for layer in layers)
            torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
            # As a view that is not contiguous.
            turned = model(x.transpose(0, 1))
    torch.testing.assert_close(turned.transpose(0, 1), expected, rtol=1e-5, atol=1e-5)
    assert not any("forward" in vars(layer.module) for layer in layers)


def test_onednn_multiplies_only_where_nothing_learns_and_there_is_much_to_do(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return plain(x, weight, bias)

    plain = functional.linear
    monkeypatch.setattr(functional, "linear", look)
    x = torch.randn(240, 96)
    with multiplied_by_onednn(find_products(model)):
        with torch.no_grad():
            model(x)
            assert seen == []
            model(x[:2])
            assert len(seen) == 2
            with torch.autocast("cpu", torch.bfloat16):
                model(x)
            assert len(seen) == 4
        model(x).sum().backward()
        assert len(seen) == 6
    assert next(model.parameters()).grad is not None


def test_a_layer_that_was_changed_before_stays_so(model: nn.Sequential) -> None:
    changed = model[0]
    changed.forward = lambda x: torch.zeros(len(x), 200)
    former = changed.forward
    with pytest.raises(RuntimeError), multiplied_by_onednn(find_products(model)):
        raise RuntimeError
    assert changed.forward is former


def test_other_formats_are_left_alone(model: nn.Sequential) -> None:
    assert find_products(model.bfloat16()) == []


@pytest.mark.parametrize("text", ["gemma", "gemma2"])
@pytest.mark.parametrize("target", ["up_proj|fc2", "gate_proj|fc1", None])
def test_activations_are_computed_with_their_products(
    random_model: Callable[..., PaliGemmaForConditionalGeneration], text: str, target: str | None
) -> None:
    model = random_model(text, num_layers=1).eval()
    if target:
        config = LoraConfig(r=2, target_modules=f".*({target})", init_lora_weights=False)
        inject_adapter_in_model(config, model)
    replacements = find_products(model)
    mlps: list[Any] = [module for module in model.modules() if type(module).__name__.endswith("MLP")]
    assert len(mlps) == 2
    for mlp in mlps:
        is_replaced = any(module is mlp for module, _ in replacements)
        assert is_replaced == (target != "gate_proj|fc1")
        width = (mlp.fc1 if hasattr(mlp, "fc1") else mlp.gate_proj).in_features
        x = torch.randn(2, 400, width)
        with torch.no_grad():
            expected = mlp(x)
            with multiplied_by_onednn(replacements):
                found = mlp(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
