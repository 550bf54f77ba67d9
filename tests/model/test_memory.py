"""Computed memory against what autograd saves, and against figures of the full-size model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.assembly.estimate import RunEstimate
from finetune.assembly.model import freeze_and_adapt, half_dtype
from finetune.config.compose import compose
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.example import Example
from finetune.model.forward import compute_losses
from finetune.model.kernels import assume_kernel, use_kernel
from finetune.model.layer_memory import LayerInput, count_layer
from finetune.model.load import build_meta_model
from finetune.model.memory import MemoryEstimate, StepMemory, StepSettings, StepShape
from finetune.model.published import published_config
from finetune.model.surgery import operate
from finetune.model.towers import Tower, find_tower
from finetune.speed import SpeedOptions
from tests.conftest import noise_image

ONE = StepShape(examples=1, image_tokens=256, text_tokens=16, supervised_tokens=4)
EIGHT = StepShape(examples=8, image_tokens=256, text_tokens=16, supervised_tokens=4)
GIB = 2**30
PLAIN = SpeedOptions(last_layer=False, lean_adapters=False, lean_mlp=False, lean_norms=False)


def build_learner(
    *words: str, dtype: torch.dtype = torch.bfloat16
) -> tuple[RunConfig, PaliGemmaConfig, nn.Module]:
    """Build the model of a run without its weights."""
    options = compose(list(words))
    config = published_config(options.model.path)
    assert config is not None
    base, half = build_meta_model(config, dtype), half_dtype(options.trainer)
    return options, config, freeze_and_adapt(base, options.model, options.freeze, options.peft, half, None)


def estimate(
    *words: str, shape: StepShape, every: int | None = None, accumulates: bool = False
) -> StepMemory:
    options, config, learner = build_learner(*words)
    half = half_dtype(options.trainer)
    operate(learner, options.trainer.speed, autocast=half is not None)
    settings = StepSettings(options.trainer.optim, half, options.model.attention)
    memory = MemoryEstimate(learner, config, options.peft, settings)
    return memory.estimate(shape, every, accumulates=accumulates)


def test_weights_and_states_of_the_3b_model_are_those_of_its_parameters() -> None:
    memory = estimate("recipe=vqav2_lora", shape=ONE, accumulates=True)
    assert memory.weights / 2 == pytest.approx(2_923_466_480, rel=0.01)
    adapter = 9_805_824  # rank 8 on the seven matrices of 18 layers
    assert (memory.gradients, memory.optimizer) == (4 * adapter, 8 * adapter)
    quantized = estimate("recipe=vqav2_qlora", shape=ONE)
    assert quantized.weights == pytest.approx(2.91e9, rel=0.03)


def test_gradients_are_not_there_while_the_loss_is_computed() -> None:
    memory = estimate("recipe=vqav2_lora", shape=StepShape(8, 256, 200, 100))
    assert memory.logits > 0
    assert memory.gradients == 0


def test_full_tuning_has_weights_gradients_moments_and_a_copy_in_the_update() -> None:
    memory = estimate("recipe=vqav2_full", shape=ONE, every=1)
    assert memory.total == pytest.approx(2_923_466_480 * (4 + 4 + 8 + 4), rel=0.01)
    fused = estimate("recipe=vqav2_full", "trainer.optim=adamw_torch_fused", shape=ONE, every=1)
    # Without it the peak is at the embedding, whose gradient is added to that of the output layer.
    assert fused.total == pytest.approx(2_923_466_480 * 16 + 257_216 * 2048 * 4, rel=0.01)


def test_a_layer_keeps_what_was_counted_on_its_classes() -> None:
    """A decoder layer with float32 adapters under bf16 autocast saves 182 KiB a token."""
    _, config, model = build_learner("recipe=vqav2_lora")
    layer = find_tower(model, "language_model").layers[3]
    given = LayerInput(Tower.language_model, 2, 272, None)
    count = count_layer(layer, given, config, torch.bfloat16)
    assert count.kept / 1024 / (2 * 272) == pytest.approx(182, rel=0.02)
    assert count.kept < count.most < 2 * count.kept


def test_activations_grow_with_the_batch_and_weight_copies_do_not() -> None:
    one, eight = (estimate("recipe=vqav2_full", shape=shape) for shape in (ONE, EIGHT))
    assert eight.activations < 8 * one.activations
    lora = [estimate("recipe=vqav2_lora", shape=shape).activations for shape in (ONE, EIGHT)]
    assert lora[1] == pytest.approx(8 * lora[0], rel=0.025)


def test_checkpointing_keeps_little_more_than_the_inputs_of_the_layers() -> None:
    saved, half, whole = (
        estimate("recipe=vqav2_lora", shape=EIGHT, every=every).activations for every in (None, 2, 1)
    )
    assert whole < saved / 6
    assert half == pytest.approx((saved + whole) / 2, rel=0.1)


def test_what_nothing_learns_before_saves_nothing() -> None:
    whole = estimate("recipe=vqav2_lora", shape=ONE).activations
    last = estimate("recipe=vqav2_lora", "freeze.last_n=6", shape=ONE).activations
    # Of 17 layers that save everything, 5; the last one saves little besides keys and values.
    assert last == pytest.approx(whole * 5 / 17, rel=0.2)


def test_logits_are_as_many_as_a_batch_has_and_not_as_its_longest_text_would() -> None:
    short = StepShape(8, 256, 300, 280, supervised_mean=20.0)
    long = StepShape(8, 256, 300, 280)
    assert short.supervised_rows == 280 + 7 * 20
    few, many = (estimate("recipe=vqav2_lora", shape=shape).logits for shape in (short, long))
    assert few < many / 5


def test_a_cpu_also_has_holes_in_its_heap() -> None:
    options, config, learner = build_learner("recipe=vqav2_lora")
    on_gpu = MemoryEstimate(learner, config, options.peft, StepSettings(on_gpu=True))
    on_cpu = on_gpu.with_settings(on_gpu=False, process=GIB)
    assert on_cpu.estimate(ONE).allocated > 1.5 * on_gpu.estimate(ONE).activations
    assert on_cpu.estimate(ONE).process == GIB


@pytest.mark.parametrize("speed", [SpeedOptions(), PLAIN], ids=["lean", "plain"])
@pytest.mark.parametrize(
    ("backbone", "kernel"),
    [
        ("gemma", "sdpa"),
        ("gemma", "split_sdpa"),
        ("gemma", "split_eager"),
        ("gemma2", "eager"),
        ("gemma2", "split_eager"),
    ],
)
def test_the_estimate_is_what_autograd_saves(
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    processor: PaliGemmaProcessor,
    backbone: str,
    kernel: str,
    speed: SpeedOptions,
) -> None:
    model = random_model(backbone, num_layers=16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("language_model.layers" in name)
    operate(model, speed)
    use_kernel(model, kernel)
    example = Example("x", (noise_image(0),), "answer en which letter is this?", ("a",))
    batch = Collator(processor)([example] * 4)
    saved: dict[int, Tensor] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def save(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            saved[storage] = tensor
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        compute_losses(model.train(), batch)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    tokens = batch["input_ids"].shape[1] - 64
    shape = StepShape(examples=4, image_tokens=64, text_tokens=tokens, supervised_tokens=2)
    options = compose(["recipe=quickstart", "peft=none"])
    memory = MemoryEstimate(model, model.config, options.peft, StepSettings("sgd", attention=kernel))
    computed = memory.estimate(shape)
    assert computed.activations + computed.logits == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("model", "length", "on_gpu", "kernel"),
    [
        pytest.param("paligemma_3b", 272, False, "split_eager", id="products on a CPU"),
        pytest.param("paligemma_3b", 4112, False, "split_sdpa", id="long rows on a CPU"),
        pytest.param("paligemma_3b", 272, True, "split_sdpa", id="no scores on a GPU"),
        pytest.param("paligemma2_3b", 4112, False, "split_eager", id="with a soft-cap"),
        pytest.param("paligemma2_3b", 272, True, "flex", id="with a soft-cap on a GPU"),
    ],
)
def test_the_kernel_is_assumed_that_would_be_chosen(
    model: str, length: int, on_gpu: bool, kernel: str
) -> None:
    options = compose(["recipe=vqav2_lora", f"model={model}"])
    config = published_config(options.model.path)
    assert config is not None
    assert assume_kernel(config.text_config, length, on_gpu=on_gpu) == kernel
    assert assume_kernel(config.text_config, length, "eager", on_gpu=on_gpu) == "eager"


def test_rows_too_short_for_a_kernel_to_matter_have_a_dense_mask(
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
) -> None:
    kernels = [
        assume_kernel(random_model(backbone).config.text_config, 80, on_gpu=True)
        for backbone in ("gemma", "gemma2")
    ]
    assert kernels == ["sdpa", "eager"]


def test_counting_leaves_the_layer_as_it_was() -> None:
    _, config, model = build_learner("recipe=vqav2_lora", "model=paligemma2_3b")
    layer = find_tower(model, "language_model").layers[3]
    attention = layer.self_attn
    before = attention.config._attn_implementation, attention.attn_logit_softcapping
    given = LayerInput(Tower.language_model, 2, 48, None, "flex", 32)
    assert count_layer(layer, given, config, None).kept > 0
    assert (attention.config._attn_implementation, attention.attn_logit_softcapping) == before


def test_a_kernel_without_scores_keeps_less_than_products() -> None:
    long = StepShape(examples=2, image_tokens=1024, text_tokens=16, supervised_tokens=4)
    words = ["recipe=vqav2_lora", "model=paligemma2_3b"]
    flex, products, dense = (
        estimate(*words, f"model.attention={name}", shape=long).activations
        for name in ("flex", "split_eager", "eager")
    )
    assert flex < 0.8 * products < 0.8 * dense


def test_recomputed_layers_keep_copies_of_what_learns_outside_of_their_mlp() -> None:
    """The MLP's passes convert weights when they use them; autocast keeps the other copies."""
    _, config, model = build_learner("recipe=vqav2_full", dtype=torch.float32)
    layer = find_tower(model, "language_model").layers[3]
    given = LayerInput(Tower.language_model, 1, 48, None)
    queries_and_output, keys_and_values, mlp = 2 * 2048**2, 2 * 2048 * 256, 3 * 2048 * 16384
    plain = count_layer(layer, given, config, torch.bfloat16).copies
    assert plain == 2 * (queries_and_output + keys_and_values + mlp)
    operate(model, SpeedOptions(), autocast=True)
    assert count_layer(layer, given, config, torch.bfloat16).copies == 2 * (
        queries_and_output + keys_and_values
    )


def test_an_image_in_a_batch_is_bytes_or_features_unless_the_options_say_otherwise() -> None:
    side, values = 224, 3 * 224**2
    features = 256 * 1152 * 2

    def image_bytes(*words: str) -> int:
        options = compose(["recipe=vqav2_lora", *words])
        config = published_config(options.model.path)
        assert config is not None
        assert config.vision_config.image_size == side
        return RunEstimate(options, config).shape().image_bytes

    assert image_bytes() == features
    assert image_bytes("trainer.speed.feature_cache=false") == values
    assert (
        image_bytes("trainer.speed.feature_cache=false", "trainer.speed.uint8_pixels=false") == 4 * values
    )
    assert image_bytes("peft=none", "freeze=none") == 3 * values
