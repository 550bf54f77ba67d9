"""The kernel that trains is the fastest of those that compute what the dense mask does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model, GemmaConfig, GemmaModel
from transformers.modeling_utils import AttentionInterface

from finetune.errors import UserError
from finetune.example import Batch
from finetune.model import attention, kernels
from finetune.model.kernels import choose_kernel, list_candidates, use_kernel
from finetune.speed import format_techniques

LENGTHS = (255, 261)


@pytest.fixture
def batch() -> Batch:
    """Two rows of the length of 224 pixels: prefixes of different lengths, a suffix and padding."""
    types = torch.ones(2, 272, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        types[row, :length] = 0
    ids = torch.zeros_like(types)
    return {"input_ids": ids, "token_type_ids": types, "prefix_lengths": list(LENGTHS)}  # type: ignore[typeddict-item]


def build(backbone: str = "gemma", **changes: Any) -> nn.Module:
    """One layer with the heads of PaliGemma 3B, and little else."""
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 8, "head_dim": 256, **changes}
    holder = nn.Module()
    if backbone == "gemma":
        config: Any = GemmaConfig(**sizes, num_key_value_heads=1)
        config._attn_implementation = "sdpa"
        holder.language_model = GemmaModel(config)
    else:
        config = Gemma2Config(**sizes, num_key_value_heads=4)
        config._attn_implementation = "eager"
        holder.language_model = Gemma2Model(config)
    return holder


@pytest.mark.parametrize(
    ("backbone", "measured"),
    [("gemma", {"sdpa", "split_sdpa", "split_eager"}), ("gemma2", {"eager", "split_eager"})],
)
@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_every_candidate_is_measured_and_the_fastest_chosen(
    batch: Batch, backbone: str, measured: set[str], half: torch.dtype | None
) -> None:
    model = build(backbone)
    choice = choose_kernel(model, batch, half)
    assert choice.refused == {}
    assert choice.milliseconds.keys() == measured
    assert choice.milliseconds[choice.kernel] <= 1.06 * min(choice.milliseconds.values())
    use_kernel(model, choice.kernel)
    language_model: Any = model.language_model
    config = language_model.config
    assert config._attn_implementation == choice.kernel


def replace_split(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Let `split_sdpa` compute with other inputs."""
    kernel = partial(attention._attend, "split_sdpa")

    def broken(*args: Any, prefix: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        return kernel(*args, prefix=tuple(map(change, prefix)), **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "split_sdpa", broken)


def hide(prefix: attention.PrefixRows) -> attention.PrefixRows:
    mask = prefix.mask.clone()
    mask[..., 3, 7] = False
    return prefix._replace(mask=mask)


def run_out_of_memory(prefix: attention.PrefixRows) -> attention.PrefixRows:
    raise torch.OutOfMemoryError("out of memory\nby far")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(
            lambda prefix: prefix._replace(lengths=(LENGTHS[0] + 1, LENGTHS[1])), "differs", id="leak"
        ),
        pytest.param(
            lambda prefix: prefix._replace(lengths=(LENGTHS[0] - 1, LENGTHS[1])), "differs", id="blind"
        ),
        pytest.param(hide, "differs", id="mask"),
        pytest.param(run_out_of_memory, "out of memory by far", id="fails"),
    ],
)
def test_a_kernel_that_differs_or_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, change: Any, why: str
) -> None:
    replace_split(monkeypatch, change)
    model, half = build(), torch.bfloat16
    choice = choose_kernel(model, batch, half)
    assert why in choice.refused["split_sdpa"]
    assert "split_sdpa" not in choice.milliseconds
    assert choice.kernel != "split_sdpa"
    # What was asked for by name is not replaced in silence; what an interrupted run had is.
    with pytest.raises(UserError, match=r"model.attention=split_sdpa cannot be used here: .*Choose auto"):
        choose_kernel(model, batch, half, "split_sdpa")
    assert choose_kernel(model, batch, half, kept="split_sdpa").kernel != "split_sdpa"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "measure_kernels", None)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("asked", "kept", "kernel"),
    [
        pytest.param("sdpa", None, "sdpa", id="dense by name"),
        pytest.param("split_eager", None, "split_eager", id="by name"),
        pytest.param("split_eager", "split_sdpa", "split_eager", id="by name at resume"),
        pytest.param("auto", "split_sdpa", "split_sdpa", id="kept"),
        pytest.param("auto", "sdpa", "sdpa", id="dense kept"),
        pytest.param("auto", "", "sdpa", id="resumed without a record"),
    ],
)
def test_a_kernel_that_is_known_is_not_measured(
    batch: Batch, asked: str, kept: str | None, kernel: str
) -> None:
    assert choose_kernel(build(), batch, None, asked, kept).kernel == kernel


@pytest.mark.usefixtures("unmeasured")
def test_small_models_keep_the_dense_mask_at_once(batch: Batch) -> None:
    choice = choose_kernel(build(num_attention_heads=2, head_dim=16), batch, None)
    assert (choice.kernel, choice.technique.is_on) == ("sdpa", False)
    assert "too short for a kernel to matter" in format_techniques([choice.technique])


@pytest.mark.usefixtures("unmeasured")
def test_attention_dropout_keeps_the_dense_mask(batch: Batch) -> None:
    model = build(attention_dropout=0.1)
    assert choose_kernel(model, batch, None).kernel == "sdpa"
    with pytest.raises(UserError, match="attention dropout"):
        choose_kernel(model, batch, None, "split_sdpa")


def test_flex_attention_by_name_without_a_gpu_is_refused(batch: Batch) -> None:
    with pytest.raises(UserError, match="model.attention=flex cannot be used here"):
        choose_kernel(build("gemma2"), batch, None, "flex")


def test_products_are_no_candidate_where_they_would_keep_much_more() -> None:
    assert "split_eager" in list_candidates(build().language_model, 1040)
    assert "split_eager" not in list_candidates(build().language_model, 4122)
    assert "split_eager" in list_candidates(build("gemma2").language_model, 4122)
