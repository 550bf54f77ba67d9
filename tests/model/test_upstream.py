"""What `finetune/model` relies on in transformers, peft, bitsandbytes and safetensors.

Each test uses the library alone and fails when an update changes what it is relied on for.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

Build = Callable[..., PaliGemmaForConditionalGeneration]
PATCHES, PREFIX, SUFFIX = 64, 3, 4


@pytest.fixture
def inputs(processor: PaliGemmaProcessor) -> dict[str, Tensor]:
    """An image, a prefix and a suffix, without any of our own code."""
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    text = torch.arange(40, 40 + PREFIX + SUFFIX)
    ids = torch.cat([torch.full((PATCHES,), image), text])[None]
    types = torch.cat([torch.zeros(PATCHES + PREFIX), torch.ones(SUFFIX)]).long()[None]
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": types,
        "pixel_values": torch.randn(1, 3, 56, 56, generator=generator),
    }


def reaches(model: nn.Module, inputs: dict[str, Tensor], position: int) -> list[int]:
    """Return the positions whose logits change with the token at one position."""
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, position] = 99
    with torch.no_grad():
        difference = model(**changed).logits - model(**inputs).logits
    moved = difference[0].abs().amax(-1) > 1e-6
    return [int(index) for index in moved.nonzero()]


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_the_mask_follows_from_the_token_types(
    random_model: Build, inputs: dict[str, Tensor], backbone: str
) -> None:
    """Else an answer is seen while it is learnt, or image and prefix are read in one direction only."""
    model = random_model(backbone).eval()
    end = PATCHES + PREFIX + SUFFIX
    assert reaches(model, inputs, PATCHES + 1) == list(range(end))
    assert reaches(model, inputs, PATCHES + PREFIX + 1) == list(range(PATCHES + PREFIX + 1, end))
    prefix_only = {**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])}
    assert reaches(model, prefix_only, PATCHES + PREFIX + 1) == list(range(end))


def test_gemma_2_looks_back_no_further_than_its_window(
    random_model: Build, inputs: dict[str, Tensor]
) -> None:
    """Else lifting `sliding_window` no longer keeps the first patches in sight at 896 pixels."""
    model = random_model("gemma2", num_layers=1).eval()
    text = model.config.get_text_config()
    assert text.layer_types == ["sliding_attention"]
    assert text.sliding_window == 4096
    last = PATCHES + PREFIX + SUFFIX - 1
    assert last in reaches(model, inputs, PATCHES)
    text.sliding_window = 4
    short = PaliGemmaForConditionalGeneration(model.config).float().eval()
    short.load_state_dict(model.state_dict())
    assert last not in reaches(short, inputs, PATCHES)


def test_the_final_soft_cap_bounds_the_logits(random_model: Build, inputs: dict[str, Tensor]) -> None:
    """Else `model.final_logit_softcap` does nothing, in either position."""
    model = random_model("gemma2").eval()
    with torch.no_grad():
        free = model(**inputs).logits
        model.config.get_text_config().final_logit_softcapping = 0.01
        capped = model(**inputs).logits
    assert free.abs().max() > 0.02
    assert torch.allclose(capped, 0.01 * torch.tanh(free / 0.01), atol=1e-6)


def test_a_boolean_mask_keeps_logits_of_single_positions(
    random_model: Build, inputs: dict[str, Tensor]
) -> None:
    """Else every training step computes, or fails on, the logits of all positions."""
    model = random_model().eval()
    keep = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    keep[0, [3, PATCHES + PREFIX]] = True
    with torch.no_grad():
        kept = model(**inputs, logits_to_keep=keep).logits
        assert torch.allclose(kept, model(**inputs).logits[keep], atol=1e-6)


def test_a_saved_model_has_other_key_names_and_comes_back_by_them(
    random_model: Build, tmp_path: Path
) -> None:
    """Else a resumed full fine-tuning finds none of its weights, or reads them under wrong names."""
    model = random_model()
    model.save_pretrained(tmp_path)
    saved = set(load_file(tmp_path / "model.safetensors"))
    own = set(model.state_dict())
    assert "language_model.model.norm.weight" in saved
    assert "model.language_model.norm.weight" in own
    assert not saved & own
    again, info = PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.state_dict().keys() == own
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_layer_told_not_to_repack_keeps_its_four_bit_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an evaluation on a CPU repacks them, and later steps lose gradients without a word."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4").to("cpu")
    assert layer.support_avx512bf16_for_cpu is True
    layer.support_avx512bf16_for_cpu = False
    called: list[object] = []
    monkeypatch.setattr("bitsandbytes.nn.modules._convert_weight_packed_for_cpu", called.append)
    before = layer.weight.data.clone()
    with torch.no_grad():
        layer.eval()(torch.ones(2, 64, dtype=torch.bfloat16))
    assert not called
    assert torch.equal(layer.weight.data, before)


@pytest.fixture
def settings() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["multi_modal_projector"])


def test_adapters_are_float32_on_a_bfloat16_base_and_saved_modules_are_not(
    random_model: Build, settings: LoraConfig
) -> None:
    """Else adapters learn in bfloat16; `modules_to_save` are left for us to lift."""
    adapted = get_peft_model(random_model().to(torch.bfloat16), settings)
    kinds = {"lora_" in name: p.dtype for name, p in adapted.named_parameters() if p.requires_grad}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    default = inspect.signature(get_peft_model).parameters["autocast_adapter_dtype"].default
    assert default is True


def test_an_adapters_keys_are_those_of_the_model_without_the_adapters_name(
    random_model: Build, settings: LoraConfig
) -> None:
    """Else what was loaded cannot be compared with what was saved, and a foreign adapter passes as none."""
    adapted = get_peft_model(random_model(), settings)
    state = get_peft_model_state_dict(adapted)
    learning = {name for name, p in adapted.named_parameters() if p.requires_grad}
    shorter = (name.replace("modules_to_save.default.", "").replace(".default", "") for name in learning)
    assert set(state) == set(shorter)


def test_keys_that_fit_nothing_are_named_on_loading(random_model: Build) -> None:
    """Else an adapter for other layers passes as one that does nothing."""
    adapted = get_peft_model(random_model(), LoraConfig(r=2, target_modules=["q_proj"]))
    state = get_peft_model_state_dict(adapted)
    result = set_peft_model_state_dict(adapted, {f"other.{name}": value for name, value in state.items()})
    assert len(result.unexpected_keys) == len(state)
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} <= set(result.missing_keys)


def test_a_saved_embedding_can_stay_tied(random_model: Build) -> None:
    """Else `modules_to_save=[embed_tokens]` leaves an output layer that no longer follows the embedding."""
    config = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    base = get_peft_model(random_model(), config).get_base_model()
    embedding = base.get_input_embeddings().modules_to_save["default"].weight
    assert base.get_output_embeddings().modules_to_save["default"].weight is embedding


@pytest.mark.parametrize("kept", [4, 60], ids=["in the header", "in the weights"])
def test_a_cut_file_is_a_safetensors_error(tmp_path: Path, kept: int) -> None:
    """Else a damaged checkpoint ends in a traceback instead of a message."""
    file = tmp_path / "cut.safetensors"
    save_file({"weight": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SafetensorError):
        load_file(file)
