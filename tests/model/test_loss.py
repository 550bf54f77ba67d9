import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import IGNORED, Example
from finetune.model.loss import (
    compute_example_losses,
    compute_token_losses,
    count_items,
    supervised_positions,
)

MakeExample = Callable[..., Example]
Build = Callable[[str], PaliGemmaForConditionalGeneration]


@pytest.fixture
def batch(processor: PaliGemmaProcessor, make_example: MakeExample) -> dict[str, Any]:
    examples = [
        make_example("a red circle and a blue square", "caption en", seed=1),
        make_example("7", "answer en how many shapes are there?", seed=2),
        make_example("yes", "answer en is it red?", seed=3),
    ]
    return Collator(processor)(examples)


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_the_loss_equals_a_plain_forward_over_all_positions(
    random_model: Build, batch: dict[str, Any], backbone: str
) -> None:
    model = random_model(backbone).eval()
    labels = batch["labels"]
    inputs = {name: batch[name] for name in batch if name not in {"ids", "labels"}}
    kept = model(**inputs, logits_to_keep=supervised_positions(labels)).logits
    ours = compute_example_losses(kept, labels)
    logits = model(**inputs).logits
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
    labels = batch["labels"]
    inputs = {name: batch[name] for name in batch if name not in {"ids", "labels"}}
    logits = model(**inputs, logits_to_keep=supervised_positions(labels)).logits
    total = compute_example_losses(logits, labels, mean=False).sum() / count_items(labels, "token")
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
    labels = torch.tensor([[IGNORED, 1, 2], [IGNORED, IGNORED, IGNORED]])
    logits = torch.zeros(2, 4)
    assert compute_example_losses(logits, labels).tolist() == pytest.approx([math.log(4), 0])
    assert count_items(labels, "example") == 2
    assert count_items(labels, "token") == 2


def test_logits_are_kept_one_before_each_label() -> None:
    labels = torch.tensor([[IGNORED, IGNORED, 5, 6, IGNORED]])
    assert supervised_positions(labels).tolist() == [[False, True, True, False, False]]
