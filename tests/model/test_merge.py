import math
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Batch, Example
from finetune.model.agreement import (
    check_weights,
    compare_logits,
    compute_logits_in_float32,
    sample_weights,
)
from finetune.model.load import load_config, load_model
from finetune.model.lora import Quantization, add_adapter
from finetune.model.merge import merge
from finetune.model.options import FreezePolicy, PeftConfig, Trainable
from tests.conftest import noise_image

Build = Callable[..., PaliGemmaForConditionalGeneration]
EVERYWHERE = FreezePolicy()
TEXT_ONLY = FreezePolicy(Trainable.none, Trainable.none, Trainable.all)
ALL_LAYERS = [
    "q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2",
    "linear",
]  # fmt: skip


def tiny(dtype: torch.dtype = torch.bfloat16, bits: int = 16) -> PaliGemmaForConditionalGeneration:
    quantization = None if bits == 16 else Quantization(PeftConfig(bits=bits))
    device = torch.device("cpu")
    return load_model("tiny", load_config("tiny"), dtype=dtype, quantization=quantization, device=device)


def teach(model: PeftModel) -> PeftModel:
    """Give an adapter values as if it had learnt: each weight changes by about a tenth."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = parameter.data.float()
        if "magnitude" in name or "modules_to_save" in name:
            parameter.data *= 1 + 0.1 * torch.randn_like(parameter)
        elif "lora_" in name:
            nn.init.normal_(parameter, std=0.08)
    return model.eval()


def adapt(
    base: PaliGemmaForConditionalGeneration, policy: FreezePolicy = TEXT_ONLY, **options: object
) -> PeftModel:
    return teach(add_adapter(base, policy, PeftConfig(**options)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def batch(processor: PaliGemmaProcessor) -> Batch:
    examples = [Example(str(n), (noise_image(n),), "caption en", ("a red circle",)) for n in range(2)]
    return Collator(processor)(examples)


def save_and_load(
    model: PaliGemmaForConditionalGeneration, folder: Path, dtype: torch.dtype
) -> PaliGemmaForConditionalGeneration:
    model.save_pretrained(folder)
    return PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()


KINDS = [
    pytest.param(EVERYWHERE, {"target_modules": ALL_LAYERS}, 16, id="lora-in-every-tower"),
    pytest.param(TEXT_ONLY, {"use_rslora": True, "r": 4}, 16, id="rslora"),
    pytest.param(EVERYWHERE, {"use_dora": True, "target_modules": ALL_LAYERS}, 16, id="dora"),
    pytest.param(TEXT_ONLY, {"modules_to_save": ["multi_modal_projector", "lm_head"]}, 16, id="copies"),
    pytest.param(FreezePolicy(last_n=1), {}, 4, id="qlora-of-one-layer"),
    pytest.param(TEXT_ONLY, {"use_dora": True}, 4, id="qdora"),
    pytest.param(TEXT_ONLY, {}, 8, id="int8"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("policy", "options", "bits"), KINDS)
def test_a_merged_model_computes_what_its_adapter_computes(
    policy: FreezePolicy,
    options: dict[str, object],
    bits: int,
    dtype: torch.dtype,
    batch: Batch,
    tmp_path: Path,
) -> None:
    adapted = adapt(tiny(bits=bits), policy, **options)
    reference, samples = compute_logits_in_float32(adapted, [batch]), sample_weights(adapted)
    with adapted.disable_adapter():
        before = compute_logits_in_float32(adapted, [batch])
    merged = save_and_load(merge(adapted, dtype), tmp_path, dtype)
    assert type(merged) is PaliGemmaForConditionalGeneration
    assert {parameter.dtype for parameter in merged.parameters()} == {dtype}
    assert merged.lm_head.weight.data_ptr() == merged.get_input_embeddings().weight.data_ptr()
    assert not hasattr(merged.config, "quantization_config")
    check_weights(samples, merged)
    agreement = compare_logits(reference, compute_logits_in_float32(merged, [batch]), merged, dtype)
    agreement.check("any")
    assert agreement.relative < (2e-6 if dtype == torch.float32 else 0.01)
    # The adapter matters: otherwise nothing was compared.
    assert compare_logits(reference, before, merged, dtype).relative > 0.1


@pytest.mark.parametrize("text", ["gemma", "gemma2"])
def test_both_generations_keep_their_configuration(
    text: str, random_model: Build, batch: Batch, tmp_path: Path
) -> None:
    base = random_model(text)
    adapted = adapt(base, EVERYWHERE, target_modules=ALL_LAYERS)
    reference = compute_logits_in_float32(adapted, [batch])
    merged = save_and_load(merge(adapted, torch.float32), tmp_path, torch.float32)
    # sdpa cannot compute PaliGemma 2's soft-cap: plain transformers chooses eager for it.
    assert merged.config.text_config._attn_implementation == ("eager" if text == "gemma2" else "sdpa")
    assert getattr(merged.config.text_config, "final_logit_softcapping", None) is None
    assert (
        compare_logits(
            reference, compute_logits_in_float32(merged, [batch]), merged, torch.float32
        ).relative
        < 1e-5
    )


@pytest.mark.parametrize("use_dora", [False, True])
def test_the_arithmetic_is_that_of_peft_within_rounding(use_dora: bool) -> None:
    ours = merge(adapt(tiny(torch.float32), use_dora=use_dora), torch.float32).state_dict()
    theirs = adapt(tiny(torch.float32), use_dora=use_dora).merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-6)


def test_a_weight_is_rounded_once_from_quantized_values() -> None:
    name = "model.language_model.layers.1.mlp.down_proj"
    layer = adapt(tiny(bits=4)).get_base_model().get_submodule(name)
    module = layer.get_base_layer()
    values = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).double()
    down, up = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    exact = values + layer.scaling["default"] * up @ down
    merged = merge(adapt(tiny(bits=4)), torch.bfloat16).get_submodule(name).weight
    rounded = exact.float().to(torch.bfloat16)
    # The sum in float32 may fall on the other side of a tie.
    assert (merged == rounded).float().mean() > 0.999
    # PEFT stores the sum in 4 bits again, which is off by far more.
    with pytest.warns(UserWarning, match="rounding errors"):
        layer.merge()
    again = bnb.functional.dequantize_4bit(
        layer.get_base_layer().weight.data, layer.get_base_layer().weight.quant_state
    )
    assert (again - exact).square().mean() > 1000 * (merged - exact).square().mean()


UNTIED = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")


@UNTIED
@pytest.mark.parametrize("copied", ["lm_head", "embed_tokens"])
def test_weights_that_were_trained_apart_are_untied(copied: str, batch: Batch, tmp_path: Path) -> None:
    """PEFT unties them if it is not asked to keep them together, which adapters of others do."""
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=[copied])
    adapted = teach(get_peft_model(tiny(), config))
    reference = compute_logits_in_float32(adapted, [batch])
    merged = save_and_load(merge(adapted, torch.float32), tmp_path, torch.float32)
    assert not merged.config.tie_word_embeddings
    assert not torch.equal(merged.lm_head.weight, merged.get_input_embeddings().weight)
    got = compute_logits_in_float32(merged, [batch])
    assert compare_logits(reference, got, merged, torch.float32).relative < 2e-6


@UNTIED
def test_lora_of_the_embedding_is_merged(batch: Batch, tmp_path: Path) -> None:
    adapted = teach(get_peft_model(tiny(), LoraConfig(target_modules=["embed_tokens", "v_proj"])))
    reference, samples = compute_logits_in_float32(adapted, [batch]), sample_weights(adapted)
    merged = save_and_load(merge(adapted, torch.float32), tmp_path, torch.float32)
    check_weights(samples, merged)
    got = compute_logits_in_float32(merged, [batch])
    assert compare_logits(reference, got, merged, torch.float32).relative < 2e-6


def test_what_cannot_be_a_weight_is_refused() -> None:
    convolution = get_peft_model(tiny(), LoraConfig(target_modules=["patch_embedding"]))
    with pytest.raises(UserError, match=r"only LoRA, DoRA and rsLoRA of linear layers.*Conv2d"):
        merge(convolution, torch.float32)
    tokens = get_peft_model(tiny(), LoraConfig(target_modules=["q_proj"], trainable_token_indices=[1, 2]))
    with pytest.raises(UserError, match="TrainableTokens.* cannot be merged"):
        merge(tokens, torch.float32)


def test_a_damaged_adapter_is_refused() -> None:
    adapted = adapt(tiny())
    next(p for name, p in adapted.named_parameters() if "lora_B" in name).data[0, 0] = math.inf
    with pytest.raises(UserError, match="is not finite once it is merged"):
        merge(adapted, torch.float32)


def scale_twice(merged: PaliGemmaForConditionalGeneration, base: PaliGemmaForConditionalGeneration) -> None:
    for name, parameter in merged.named_parameters():
        if "language_model" in name:
            parameter.data += parameter - dict(base.named_parameters())[name]


def skip_one(merged: PaliGemmaForConditionalGeneration, base: PaliGemmaForConditionalGeneration) -> None:
    name = "model.language_model.layers.3.self_attn.k_proj.weight"
    merged.get_parameter(name).data.copy_(base.get_parameter(name))


def lose_copy(merged: PaliGemmaForConditionalGeneration, base: PaliGemmaForConditionalGeneration) -> None:
    name = "model.multi_modal_projector.linear.bias"
    merged.get_parameter(name).data.copy_(base.get_parameter(name))


def transpose_one(merged: PaliGemmaForConditionalGeneration, _: object) -> None:
    weight = merged.get_parameter("model.language_model.layers.0.self_attn.q_proj.weight")
    weight.data = weight.data.T.clone()


@pytest.mark.parametrize("damage", [scale_twice, skip_one, lose_copy, transpose_one])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_wrong_merge_is_found_in_every_format(damage: Callable[..., None], dtype: torch.dtype) -> None:
    adapted = adapt(tiny(), modules_to_save=["multi_modal_projector"])
    samples = sample_weights(adapted)
    merged = merge(adapted, dtype)
    check_weights(samples, merged)
    damage(merged, tiny())
    with pytest.raises(UserError, match="The merge is wrong: .* weights differ by more than rounding"):
        check_weights(samples, merged)


def test_logits_that_differ_by_more_than_rounding_are_an_error() -> None:
    reference = torch.randn(10, 100)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    compare_logits(reference, reference + 1e-3 * torch.randn(10, 100), model, torch.bfloat16).check("x")
    for other in (1.1 * reference, reference * math.nan):
        with pytest.raises(UserError, match=r"logits differ by .* % of their spread"):
            compare_logits(reference, other, model, torch.bfloat16).check("bfloat16")
