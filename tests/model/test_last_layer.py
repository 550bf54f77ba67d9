"""The last layer at supervised positions gives the losses and gradients of transformers' own forward."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.model.dropout import drop_residual_branches
from finetune.model.forward import compute_losses
from finetune.model.loss import compute_example_losses
from tests.conftest import plain_inputs

Build = Callable[..., PaliGemmaForConditionalGeneration]
MakeExample = Callable[..., Example]


@pytest.fixture
def batch(processor: PaliGemmaProcessor, make_example: MakeExample) -> Batch:
    """Suffixes of one word and of eight, prefixes of one and of six, one image and two."""
    short, long = (
        make_example("a", "b"),
        make_example("a b c d e f g h", "a longer prefix than that", seed=1),
    )
    two = replace(make_example("d e", "c", seed=2), images=short.images + long.images)
    return Collator(processor)([short, long, two])


def plain_losses(model: nn.Module, batch: Batch) -> Tensor:
    """The losses from logits at all positions, as transformers computes them."""
    logits = model(**plain_inputs(batch), use_cache=False).logits[:, :-1]
    kept = batch["labels"][:, 1:] != -100
    return compute_example_losses(logits[kept], batch["targets"], batch["segments"], len(batch["ids"]))


def test_the_window_and_the_soft_cap_of_gemma_2_hold_in_the_last_layer(
    random_model: Build, batch: Batch
) -> None:
    model = random_model("gemma2")
    text = model.config.text_config
    text.sliding_window = 16
    text.layer_types = ["sliding_attention"] * len(text.layer_types)
    attention = model.model.language_model.layers[-1].self_attn
    attention.attn_logit_softcapping = 0.01
    with torch.no_grad():
        expected = plain_losses(model, batch)
        assert torch.allclose(compute_losses(model, batch), expected, rtol=1e-6)
        attention.attn_logit_softcapping = 50.0
        assert not torch.allclose(compute_losses(model, batch), expected, rtol=1e-6)


def test_a_model_without_supervised_columns_is_as_before(random_model: Build, batch: Batch) -> None:
    model = random_model().eval()
    with torch.no_grad():
        before = model(**plain_inputs(batch)).logits
        compute_losses(model, batch)
        assert torch.equal(model(**plain_inputs(batch)).logits, before)


def test_the_last_layer_reads_no_other_row(random_model: Build, batch: Batch) -> None:
    """Its MLP is given the supervised rows alone."""
    model, seen = random_model(), []
    mlp = model.model.language_model.layers[-1].mlp
    mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:2]))
    compute_losses(model, batch)
    assert seen == [(1, len(batch["targets"]))]


def test_dropped_branches_are_dropped_in_the_last_layer_too(random_model: Build, batch: Batch) -> None:
    model = random_model().train()
    drop_residual_branches(model, 0.5)
    with torch.no_grad():
        first, second = compute_losses(model, batch), compute_losses(model, batch)
        assert not torch.allclose(first, second)
        model.eval()
        assert torch.equal(compute_losses(model, batch), compute_losses(model, batch))
