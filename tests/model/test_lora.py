from collections.abc import Callable

import bitsandbytes as bnb
import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Example
from finetune.model.forward import compute_losses
from finetune.model.kernels import use_kernel
from finetune.model.load import build_meta_model, load_config, load_model
from finetune.model.lora import Quantization, add_adapter, find_targets
from finetune.model.options import FreezePolicy, PeftConfig, Trainable
from finetune.model.published import published_config
from finetune.model.table import count_parameters, format_table
from finetune.model.towers import Tower, tower_of
from tests.conftest import labelled_inputs

Build = Callable[..., PaliGemmaForConditionalGeneration]
TEXT_ONLY = FreezePolicy(Trainable.none, Trainable.none, Trainable.all)


@pytest.mark.parametrize(
    ("policy", "settings", "learning", "total"),
    [
        pytest.param(FreezePolicy(), PeftConfig(), 11_298_816, 2_934_765_296, id="tutorial"),
        pytest.param(TEXT_ONLY, PeftConfig(), 9_805_824, 2_933_272_304, id="language-model"),
        pytest.param(
            TEXT_ONLY,
            PeftConfig(target_modules=["q_proj", "v_proj"]),
            18 * (8 * (2048 + 2048) + 8 * (2048 + 256)),
            None,
            id="q-and-v",
        ),
    ],
)
def test_trainable_parameters_of_paligemma_3b_are_the_published_ones(
    policy: FreezePolicy, settings: PeftConfig, learning: int, total: int | None
) -> None:
    config = published_config("google/paligemma-3b-pt-224")
    assert config is not None
    counts = count_parameters(add_adapter(build_meta_model(config, torch.bfloat16), policy, settings))
    assert sum(count.learning for count in counts.values()) == learning
    if total is not None:
        assert sum(count.parameters + count.adapter for count in counts.values()) == total
        assert f"{learning:,} of {total:,}" in format_table(counts)


def test_frozen_towers_get_no_adapter(random_model: Build) -> None:
    adapted = add_adapter(random_model(), TEXT_ONLY, PeftConfig())
    learning = {tower_of(name) for name, p in adapted.named_parameters() if p.requires_grad}
    assert learning == {"language_model"}


def test_attention_only_and_last_n_restrict_the_targets(random_model: Build) -> None:
    policy = FreezePolicy(Trainable.none, Trainable.none, Trainable.attention, last_n=2)
    targets = find_targets(random_model(), policy, PeftConfig().target_modules)
    assert len(targets) == 2 * 4
    assert all(".self_attn." in name and (".2." in name or ".3." in name) for name in targets)


def test_modules_to_save_learn_in_full_beside_the_adapters(random_model: Build) -> None:
    settings = PeftConfig(modules_to_save=["multi_modal_projector"])
    counts = count_parameters(add_adapter(random_model(), TEXT_ONLY, settings))
    assert counts["multi_modal_projector"].learning == counts["multi_modal_projector"].parameters


def test_a_kernel_that_is_chosen_later_computes_copied_layers_too(
    random_model: Build, processor: PaliGemmaProcessor, make_example: Callable[..., Example]
) -> None:
    """PEFT copies a layer with the settings that say how it attends."""
    settings = PeftConfig(
        target_modules=["gate_proj"], modules_to_save=["language_model.layers.0.self_attn"]
    )
    model = add_adapter(random_model(num_layers=2), TEXT_ONLY, settings).train()
    batch = Collator(processor)([make_example(), make_example("b c d", id="two")])
    dense = compute_losses(model, batch)
    use_kernel(model, "split_eager")
    assert torch.allclose(compute_losses(model, batch), dense, rtol=1e-6)


@pytest.mark.parametrize("option", ["use_dora", "use_rslora"])
def test_variants_of_lora_learn(
    random_model: Build,
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
    option: str,
) -> None:
    model = add_adapter(
        random_model(),
        TEXT_ONLY,
        PeftConfig(use_dora=option == "use_dora", use_rslora=option == "use_rslora"),
    )
    batch = labelled_inputs(Collator(processor)([make_example()]))
    model(**batch, use_cache=False).loss.backward()
    assert model.peft_config["default"].to_dict()[option]
    learning = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert all(parameter.grad is not None for parameter in learning)


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        (TEXT_ONLY, PeftConfig(target_modules=["q_pro"]), "Did you mean `q_proj`"),
        (TEXT_ONLY, PeftConfig(target_modules=["fc1"]), "No layer gets an adapter"),
        (TEXT_ONLY, PeftConfig(modules_to_save=["projector"]), "no module is called `projector`"),
    ],
)
def test_unknown_layers_are_errors(
    random_model: Build, policy: FreezePolicy, settings: PeftConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        add_adapter(random_model(), policy, settings)


def load_quantized(quantization: Quantization) -> PaliGemmaForConditionalGeneration:
    return load_model("tiny", load_config("tiny"), quantization=quantization)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("towers", [[Tower.language_model], [Tower.language_model, Tower.vision_tower]])
def test_exactly_the_named_towers_are_quantised(bits: int, towers: list[Tower]) -> None:
    model = load_quantized(Quantization(PeftConfig(bits=bits, quantize=towers)))
    kind = bnb.nn.Linear4bit if bits == 4 else bnb.nn.Linear8bitLt
    found = {tower_of(name) for name, module in model.named_modules() if isinstance(module, kind)}
    assert found == set(towers)
    assert type(model.lm_head) is nn.Linear
    counts = count_parameters(model)
    assert counts["language_model"].quantized == 4 * (128 * 128 * 2 + 128 * 32 * 2 + 3 * 128 * 384)


def test_nf4_is_double_quantised_and_computes_in_bfloat16() -> None:
    model = load_quantized(Quantization(PeftConfig(bits=4)))
    layer = model.model.language_model.layers[0].mlp.up_proj
    assert layer.compute_dtype == torch.bfloat16
    assert (layer.weight.quant_state.quant_type, layer.weight.quant_state.nested) == ("nf4", True)


def test_the_misspelt_compute_type_of_published_scripts_is_caught() -> None:
    class Misspelt(Quantization):
        def to_config(self) -> BitsAndBytesConfig:
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_type=torch.bfloat16,
                llm_int8_skip_modules=[".*vision_tower", ".*multi_modal_projector", ".*lm_head"],
            )

    with pytest.raises(RuntimeError, match=r"computes in \(torch.float32"):
        load_quantized(Misspelt(PeftConfig(bits=4)))


def test_a_tower_named_without_its_path_would_be_quantised_and_is_caught() -> None:
    class WithoutPath(Quantization):
        def to_config(self) -> BitsAndBytesConfig:
            config = super().to_config()
            config.llm_int8_skip_modules = ["vision_tower", "multi_modal_projector", "lm_head"]
            return config

    with pytest.raises(RuntimeError, match=r"vision_tower.*quantized=True, asked for False"):
        load_quantized(WithoutPath(PeftConfig(bits=4)))


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_are_the_same_after_an_evaluation(
    processor: PaliGemmaProcessor, make_example: Callable[..., Example], bits: int
) -> None:
    model = add_adapter(load_quantized(Quantization(PeftConfig(bits=bits))), TEXT_ONLY, PeftConfig())
    batch = labelled_inputs(Collator(processor)([make_example()]))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            model(**batch, use_cache=False).loss.backward()
        return [p.grad.clone() for name, p in model.named_parameters() if "lora_B" in name]

    before = gradients()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(**batch, use_cache=False)
    after = gradients()
    assert sum(gradient.abs().sum() for gradient in before) > 0
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
