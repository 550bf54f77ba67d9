import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import IGNORED, Batch, Example
from finetune.model.forward import compute_losses
from finetune.model.loss import compute_example_losses, compute_token_losses, count_items
from tests.conftest import plain_inputs

MakeExample = Callable[..., Example]
Build = Callable[[str], PaliGemmaForConditionalGeneration]


@pytest.fixture
def batch(processor: PaliGemmaProcessor, make_example: MakeExample) -> Batch:
    examples = [
        make_example("a red circle and a blue square", "caption en", seed=1),
        make_example("7", "answer en how many shapes are there?", seed=2),
        make_example("yes", "answer en is it red?", seed=3),
    ]
    return Collator(processor)(examples)


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_the_loss_equals_a_plain_forward_over_all_positions(
    random_model: Build, batch: Batch, backbone: str
) -> None:
    model = random_model(backbone).eval()
    labels = batch["labels"]
    ours = compute_losses(model, batch)
    logits = model(**plain_inputs(batch)).logits
    for row in range(len(labels)):
        plain = functional.cross_entropy(logits[row, :-1], labels[row, 1:], ignore_index=IGNORED)
        assert ours[row].item() == pytest.approx(plain.item(), abs=1e-5)


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_the_token_mean_equals_the_models_own_loss_with_the_processors_labels(
    random_model: Build,
    processor: PaliGemmaProcessor,
    make_example: MakeExample,
    backbone: str,
) -> None:
    example = make_example("a red circle", "caption en")
    theirs = processor(
        images=list(example.images), text="<image>caption en", suffix="a red circle", return_tensors="pt"
    )
    model = random_model(backbone).eval()
    expected = model(**theirs).loss.item()
    batch = Collator(processor)([example])
    total = compute_losses(model, batch, mean=False).sum() / count_items(batch, "token")
    assert total.item() == pytest.approx(expected, abs=1e-5)


def test_label_smoothing_is_the_papers() -> None:
    logits = torch.randn(5, 11, dtype=torch.float64)
    targets = torch.tensor([0, 3, 10, 7, 7])
    log_probabilities = logits.log_softmax(-1)
    smooth = 0.3
    expected = []
    for row, target in enumerate(targets):
        weights = torch.full((11,), smooth / 10, dtype=torch.float64)
        weights[target] = 1 - smooth
        expected.append(-(weights * log_probabilities[row]).sum())
    ours = compute_token_losses(logits, targets, smooth)
    assert torch.allclose(ours.double(), torch.stack(expected), atol=1e-5)


def test_an_example_without_a_label_has_loss_zero_and_still_counts() -> None:
    logits = torch.zeros(2, 4)
    targets, segments = torch.tensor([1, 2]), torch.tensor([0, 0])
    losses = compute_example_losses(logits, targets, segments, 2)
    assert losses.tolist() == pytest.approx([math.log(4), 0])
    batch: Any = {"ids": ["one", "two"], "targets": targets}
    assert count_items(batch, "example") == 2
    assert count_items(batch, "token") == 2


def test_two_examples_in_one_row_have_a_loss_each() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2])
    first, second = compute_example_losses(logits, targets, torch.tensor([0, 0, 1]), 2).tolist()
    tokens = compute_token_losses(logits, targets).tolist()
    assert first == pytest.approx((tokens[0] + tokens[1]) / 2)
    assert second == pytest.approx(tokens[2])
