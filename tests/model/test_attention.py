"""Attention without a mask over all pairs: equal to transformers' own, and nothing sees what follows it."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.generation.generate import generate_tokens
from finetune.generation.options import GenerationOptions
from finetune.model.forward import compute_logits, compute_losses
from finetune.model.last_layer import compute_supervised_rows
from tests.conftest import noise_image

Build = Callable[..., PaliGemmaForConditionalGeneration]
MakeExample = Callable[..., Example]

KERNELS = [
    pytest.param("gemma", "split_sdpa", id="gemma-split_sdpa"),
    pytest.param("gemma", "split_eager", id="gemma-split_eager"),
    pytest.param("gemma2", "split_eager", id="gemma2-split_eager"),
]


@pytest.fixture
def batches(processor: PaliGemmaProcessor, make_example: MakeExample) -> dict[str, Batch]:
    """Rows with padding of prefixes of one length and of several, one and two images, shared prefixes."""
    one = make_example("a", "c", seed=1)
    long = make_example("a b c d e f", "a longer prefix than that", seed=2)
    two = replace(make_example("d e", "c d", seed=3), images=one.images + long.images)
    several = replace(one, suffixes=("a", "b c d e f", "a b"))
    return {
        "same": Collator(processor)([one, replace(one, suffixes=("b c d",))]),
        "mixed": Collator(processor)([long, one, two]),
        "shared": Collator(processor, every_suffix=True)([several, replace(one, suffixes=("d",))]),
        "shared mixed": Collator(processor, every_suffix=True)([several, long]),
    }


def make_prompt(prefix: str) -> Example:
    return Example(prefix, (noise_image(7),), prefix, ())


def use(model: nn.Module, kernel: str) -> None:
    config = next(m for n, m in model.named_modules() if n.endswith("language_model")).config
    config._attn_implementation = kernel


PLAIN = {"gemma": "sdpa", "gemma2": "eager"}


def see_all(model: PaliGemmaForConditionalGeneration) -> PaliGemmaForConditionalGeneration:
    """Compute all positions of the last layer too, so that each has logits."""
    compute_supervised_rows(model, everywhere=True)
    return model.train()


@pytest.mark.parametrize(("backbone", "kernel"), KERNELS)
def test_a_position_depends_on_what_it_may_see_and_on_nothing_else(
    random_model: Build, batches: dict[str, Batch], backbone: str, kernel: str
) -> None:
    """Every text token is replaced in turn: the logits that change are those of the tokens that see it."""
    model, batch = see_all(random_model(backbone)), batches["shared mixed"]
    use(model, kernel)
    rows, length = batch["input_ids"].shape
    text = torch.tensor([0, *range(min(batch["prefix_lengths"]) - 3, length)])
    batch = {**batch, "columns": text.expand(rows, -1), "places": torch.arange(rows * len(text))}
    blocks, used = batch["blocks"], batch["attention_mask"].bool()[:, text]
    with torch.no_grad():
        before = compute_logits(model, batch).view(rows, len(text), -1)
        for column in text[1:].tolist():
            ids = batch["input_ids"].clone()
            ids[:, column] = torch.where(ids[:, column] == 5, 6, 5)
            after = compute_logits(model, {**batch, "input_ids": ids}).view(rows, len(text), -1)
            changed = (after - before).abs().amax(-1) > 1e-6
            sees = (blocks[:, text] == blocks[:, [column]]) & (text >= column)
            sees |= blocks[:, [column]] == 0
            assert torch.equal(changed[used], sees[used]), column


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the last two sizes of every tensor that is computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, Tensor):
                self.seen.add(tuple(part.shape[-2:]))
        return result


def test_no_mask_over_all_pairs_is_built(random_model: Build, batches: dict[str, Batch]) -> None:
    model = random_model().train()
    for name, batch in batches.items():
        pairs = (batch["input_ids"].shape[1],) * 2
        for kernel, builds in (("sdpa", True), ("split_sdpa", False)):
            use(model, kernel)
            with Shapes() as shapes:
                compute_losses(model, batch)
            assert (pairs in shapes.seen) is builds, (name, kernel)


@pytest.mark.parametrize(("backbone", "kernel"), KERNELS)
def test_evaluation_computes_what_the_model_was_loaded_with(
    random_model: Build,
    batches: dict[str, Batch],
    processor: PaliGemmaProcessor,
    backbone: str,
    kernel: str,
) -> None:
    model = random_model(backbone).eval()
    prompts = Collator(processor).build_prompts([make_prompt("c"), make_prompt("a longer prefix")])
    options = GenerationOptions(max_new_tokens=4)
    losses, answers = [], []
    for name in (PLAIN[backbone], kernel):
        use(model, name)
        with torch.no_grad():
            losses.append([compute_losses(model, batch) for batch in batches.values()])
            answers.append(generate_tokens(model, prompts, processor.tokenizer, options))
    assert all(map(torch.equal, *losses))
    assert all(map(torch.equal, *answers))


@pytest.mark.parametrize("kernel", ["split_sdpa", "split_eager"])
def test_under_autocast_the_losses_are_those_of_the_dense_mask_but_for_rounding(
    random_model: Build, batches: dict[str, Batch], kernel: str
) -> None:
    model = random_model().train()
    expected = [compute_losses(model, batch).detach() for batch in batches.values()]
    use(model, kernel)
    with torch.autocast("cpu", torch.bfloat16):
        for before, batch in zip(expected, batches.values(), strict=True):
            assert torch.allclose(compute_losses(model, batch), before, rtol=1e-2)


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_flex_attention_computes_the_logits_of_the_dense_mask(
    random_model: Build, batches: dict[str, Batch], backbone: str
) -> None:
    """Uncompiled and without gradients, which it has on GPUs alone."""
    model = random_model(backbone).train()
    torch.compiler.set_stance("force_eager")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the uncompiled kernel
            for name, batch in batches.items():
                use(model, PLAIN[backbone])
                expected = compute_losses(model, batch)
                use(model, "flex")
                assert torch.allclose(compute_losses(model, batch), expected, rtol=1e-6), name
    finally:
        torch.compiler.set_stance("default")


def test_a_window_that_hides_something_needs_the_dense_mask(
    random_model: Build, batches: dict[str, Batch]
) -> None:
    model = random_model("gemma2").train()
    text = model.config.text_config
    text.sliding_window, text.layer_types = 8, ["sliding_attention"] * len(text.layer_types)
    with torch.no_grad():
        expected = compute_losses(model, batches["mixed"])
        use(model, "split_eager")
        assert torch.equal(compute_losses(model, batches["mixed"]), expected)
        text.sliding_window = 10_000
        assert not torch.allclose(compute_losses(model, batches["mixed"]), expected, rtol=1e-6)
