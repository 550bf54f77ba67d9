"""Computed operations against torch's counter, which sees every matrix product, on meta tensors."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from finetune.assembly.model import freeze_and_adapt, half_dtype
from finetune.config.compose import compose
from finetune.model.flops import (
    ExampleSize,
    Execution,
    count_executed,
    count_useful,
    describe_learning,
)
from finetune.model.last_layer import compute_supervised_rows
from finetune.model.load import build_meta_model, load_config
from finetune.model.published import published_config
from finetune.model.surgery import operate
from finetune.model.towers import find_tower

PREFIX, SUFFIX, EXAMPLES = 12, 4, 2


def count_on_meta(words: list[str], path: str | None = None, every: int | None = None) -> tuple[float, ...]:
    """Return the operations of an example: counted, computed as executed, computed as useful."""
    options = compose(words)
    path = path or options.model.path
    config = load_config(path) if path == "tiny" else published_config(path)
    assert config is not None
    # As many layers as show what first and last ones do otherwise; all are alike in between.
    config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers = 6, 3
    half = half_dtype(options.trainer)
    base = build_meta_model(config, torch.bfloat16)
    model = freeze_and_adapt(base, options.model, options.freeze, options.peft, half, None)
    speed = options.trainer.speed
    speed.checkpoint_every = every
    # Meta tensors have no autocast, which these ask for; `benchmarks/counts.py` counts their products.
    speed.lean_adapters = speed.lean_mlp = speed.lean_norms = False
    operate(model, speed, activation_checkpointing=every is not None, autocast=half is not None)
    model.train()
    image_tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        torch.autograd.backward(compute_sum(model, image_tokens))
    size = ExampleSize(image_tokens, 1, PREFIX, SUFFIX)
    learning = describe_learning(model)
    executed = count_executed(config, learning, size, Execution(checkpoint_every=every))
    return counter.get_total_flops() / EXAMPLES, executed, count_useful(config, learning, size)


def compute_sum(model: torch.nn.Module, image_tokens: int) -> torch.Tensor:
    """Run what `forward` does without its checks, which look at contents."""
    language_model, tokens = compute_supervised_rows(model), image_tokens + PREFIX + SUFFIX
    side = find_tower(model, "vision_tower").config.image_size
    pixels = torch.zeros(EXAMPLES, 3, side, side, device="meta")
    features = find_tower(model, "vision_tower")(pixels).last_hidden_state
    features = find_tower(model, "multi_modal_projector")(features)
    ids = torch.zeros(EXAMPLES, PREFIX + SUFFIX, dtype=torch.int64, device="meta")
    hidden = torch.cat([features, language_model.get_input_embeddings()(ids)], 1)
    mask = torch.zeros(EXAMPLES, 1, tokens, tokens, dtype=torch.bool, device="meta")
    if language_model.config._attn_implementation == "eager":
        mask = mask.to(hidden.dtype)
    columns = torch.zeros(EXAMPLES, SUFFIX, dtype=torch.int64, device="meta")
    states = language_model(
        inputs_embeds=hidden,
        attention_mask=mask,
        position_ids=torch.arange(tokens, device="meta")[None],
        use_cache=False,
        supervised_columns=columns,
        supervised_places=columns.flatten(),
    ).last_hidden_state
    return find_tower(model, "lm_head")(states).float().sum()


BACKBONES = [
    "tiny",
    "google/paligemma-3b-pt-224",
    "google/paligemma-3b-pt-448",
    "google/paligemma2-3b-pt-224",
    "google/paligemma2-10b-pt-448",
    "google/paligemma2-28b-pt-224",
]


@pytest.mark.parametrize("path", BACKBONES)
def test_executed_operations_are_those_that_torch_counts(path: str) -> None:
    counted, executed, _ = count_on_meta(["recipe=vqav2_lora"], path)
    assert executed == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize(
    ("words", "every"),
    [
        pytest.param(["recipe=vqav2_lora"], 1, id="every-layer-again"),
        pytest.param(["recipe=vqav2_lora"], 2, id="every-second-again"),
        pytest.param(["recipe=vqav2_full"], None, id="everything-learns"),
        pytest.param(["recipe=vqav2_decoder"], 1, id="decoder-learns-again"),
        pytest.param(["recipe=vqav2_lora", "freeze=none"], None, id="adapters-everywhere"),
        pytest.param(["recipe=vqav2_lora", "freeze.last_n=3"], None, id="last-layers"),
        pytest.param(["recipe=vqav2_full", "freeze=attention_only"], None, id="attention-alone"),
    ],
)
def test_operations_of_each_method_are_those_that_torch_counts(words: list[str], every: int | None) -> None:
    counted, executed, _ = count_on_meta(words, every=every)
    assert executed == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize(
    ("side", "useful", "executed"), [(224, 2.417, 2.32), (448, 9.71, 9.37), (896, 45.6, 44.9)]
)
def test_the_3b_model_needs_the_operations_that_were_worked_out_by_hand(
    side: int, useful: float, executed: float
) -> None:
    """LoRA of rank 8 on the language model, 12 prefix and 4 suffix tokens; TFLOP."""
    config = published_config(f"google/paligemma-3b-pt-{side}")
    assert config is not None
    options = compose(["recipe=vqav2_lora"])
    base = build_meta_model(config, torch.bfloat16)
    model = freeze_and_adapt(base, options.model, options.freeze, options.peft, torch.bfloat16, None)
    learning, size = describe_learning(model), ExampleSize((side // 14) ** 2, 1, PREFIX, SUFFIX)
    assert count_useful(config, learning, size) / 1e12 == pytest.approx(useful, rel=0.005)
    plain = count_executed(config, learning, size, Execution())
    assert plain / 1e12 == pytest.approx(executed, rel=0.005)
    cached = count_executed(config, learning, size, Execution(images=0))
    assert (plain - cached) / 1e12 == pytest.approx({224: 0.219, 448: 0.973, 896: 5.46}[side], rel=0.01)


def test_a_shared_row_executes_less_and_is_as_useful() -> None:
    config = published_config("google/paligemma-3b-pt-224")
    assert config is not None
    options = compose(["recipe=vqav2_lora"])
    base = build_meta_model(config, torch.bfloat16)
    model = freeze_and_adapt(base, options.model, options.freeze, options.peft, torch.bfloat16, None)
    learning = describe_learning(model)
    shared, alone = (ExampleSize(256, 1, 4, 14, suffixes) for suffixes in (5.0, 1.0))
    assert count_useful(config, learning, shared) == 5 * count_useful(config, learning, alone)
    ratio = 5 * count_executed(config, learning, alone, Execution())
    assert ratio / count_executed(config, learning, shared, Execution()) > 3.5
