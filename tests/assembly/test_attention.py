"""The kernel of a training is chosen once, recorded, and kept when the run is resumed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.assembly.attention import settle_attention
from finetune.config.compose import compose
from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Batch, Example
from finetune.model import kernels


@pytest.fixture
def batch(processor: PaliGemmaProcessor, make_example: Callable[..., Example]) -> Batch:
    return Collator(processor)([make_example("a b")])


def settle(model: torch.nn.Module, batch: Batch, *words: str, recorded: Path | None = None) -> str:
    options = compose(["recipe=quickstart", *words])
    return settle_attention(options, model, batch, recorded).kernel


def test_the_kernel_is_used_by_the_model_that_trains(
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model()
    assert settle(model, batch) == model.config.text_config._attn_implementation == "sdpa"
    monkeypatch.setattr(kernels, "_LEAST_WORK", 0)
    monkeypatch.setattr(
        kernels, "measure_kernels", lambda _, names: dict.fromkeys(names, 1.0) | {names[1]: 0.5}
    )
    assert settle(model, batch) == model.config.text_config._attn_implementation == "split_sdpa"
    assert "split" not in json.dumps(model.config.to_dict())


@pytest.mark.parametrize(
    ("content", "kernel"),
    [
        pytest.param('{"attention": {"kernel": "split_eager"}}', "split_eager", id="recorded"),
        pytest.param('{"attention": {"kernel": "unheard"}}', "sdpa", id="unknown"),
        pytest.param('{"attention": ["split_eager"]}', "sdpa", id="of another shape"),
        pytest.param("{}", "sdpa", id="of an older version"),
        pytest.param("{", "sdpa", id="damaged"),
    ],
)
def test_a_resumed_run_keeps_its_kernel(
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    batch: Batch,
    tmp_path: Path,
    content: str,
    kernel: str,
) -> None:
    file = tmp_path / "environment.json"
    file.write_text(content)
    assert settle(random_model(), batch, recorded=file) == kernel


def test_a_kernel_by_name_that_cannot_be_used_is_refused(
    random_model: Callable[..., PaliGemmaForConditionalGeneration], batch: Batch
) -> None:
    with pytest.raises(UserError, match="model.attention=flex cannot be used here"):
        settle(random_model("gemma2"), batch, "model.attention=flex")
    assert settle(random_model("gemma2"), batch, "model.attention=split_eager") == "split_eager"
