from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Example
from finetune.generation.generate import generate_answers
from finetune.generation.options import EvaluationConfig
from finetune.model.adapter import load_adapter, read_adapter
from finetune.model.checkpointing import enable_activation_checkpointing
from finetune.model.freeze import apply_freeze
from finetune.model.learning import assert_learning, store_by_policy, store_what_learns
from finetune.model.load import load_config, load_model
from finetune.model.lora import Quantization, add_adapter
from finetune.model.options import FreezePolicy, PeftConfig, Trainable
from finetune.model.surgery import run_frozen_tower_without_graph
from finetune.speed import SpeedOptions
from tests.conftest import labelled_inputs

Build = Callable[..., PaliGemmaForConditionalGeneration]
MakeExample = Callable[..., Example]
TEXT_ONLY = FreezePolicy(Trainable.none, Trainable.none, Trainable.all)
POLICIES = {
    "all": FreezePolicy(),
    "language-model": TEXT_ONLY,
    "vision": FreezePolicy(Trainable.all, Trainable.all, Trainable.none),
    "projector": FreezePolicy(Trainable.none, Trainable.all, Trainable.none),
    "attention": FreezePolicy(Trainable.attention, Trainable.none, Trainable.attention),
    "last-layer": FreezePolicy(Trainable.none, Trainable.none, Trainable.all, last_n=1),
}


def learning_dtypes(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}


def gradients_of(model: nn.Module, batch: dict[str, Any]) -> list[torch.Tensor | None]:
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch, use_cache=False).loss.backward()
    return [p.grad for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize(
    ("text", "attention"),
    [
        pytest.param("gemma", "sdpa", id="paligemma-sdpa"),
        pytest.param("gemma", "eager", id="paligemma-eager"),
        pytest.param("gemma2", "eager", id="paligemma-2"),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_float32_learns_beside_frozen_bfloat16(
    random_model: Build,
    processor: PaliGemmaProcessor,
    make_example: MakeExample,
    policy: FreezePolicy,
    text: str,
    attention: str,
    checkpointing: bool,
) -> None:
    model = random_model(text, num_layers=2, hidden_size=64)
    model.set_attn_implementation({"text_config": attention})
    store_by_policy(model, policy, torch.float32, torch.bfloat16)
    apply_freeze(model, policy)
    store_what_learns(model, torch.float32, torch.bfloat16)
    assert learning_dtypes(model) == {torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == (set() if policy == FreezePolicy() else {torch.bfloat16})
    run_frozen_tower_without_graph(model, SpeedOptions())
    if checkpointing:
        enable_activation_checkpointing(model)
    collator = Collator(processor)
    batch = labelled_inputs(collator([make_example()]))
    gradients = gradients_of(model, batch)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    model.eval()
    prompt = collator.build_prompts([make_example()])
    for beams in (1, 2):
        with torch.autocast("cpu", torch.bfloat16):
            answers = generate_answers(
                model, prompt, processor.tokenizer, EvaluationConfig(max_new_tokens=3, num_beams=beams)
            )
        assert len(answers) == 1


METHODS = {
    "lora": ({}, {}),
    "dora": ({"use_dora": True}, {}),
    "rslora": ({"use_rslora": True}, {}),
    "qlora": ({}, {"bits": 4}),
    "8-bit": ({}, {"bits": 8}),
    "projector-saved": ({"modules_to_save": ["multi_modal_projector"]}, {}),
    "embedding-saved": ({"modules_to_save": ["embed_tokens"]}, {}),
    "head-saved": ({"modules_to_save": ["lm_head"]}, {}),
    "norms-saved": ({"modules_to_save": ["input_layernorm"]}, {}),
    "tower-saved": ({"modules_to_save": ["vision_tower"]}, {}),
    "qlora-and-embedding": ({"modules_to_save": ["embed_tokens"]}, {"bits": 4}),
}


@pytest.mark.parametrize(("settings", "stored"), METHODS.values(), ids=METHODS)
def test_what_an_adapter_learns_is_float32_and_comes_back_unrounded(
    processor: PaliGemmaProcessor,
    make_example: MakeExample,
    tmp_path: Path,
    settings: dict[str, Any],
    stored: dict[str, Any],
) -> None:
    def load() -> PaliGemmaForConditionalGeneration:
        return load_model(
            "tiny",
            load_config("tiny"),
            quantization=Quantization(PeftConfig(**stored)) if stored else None,
        )

    model = add_adapter(load(), TEXT_ONLY, PeftConfig(**settings))
    store_what_learns(model, torch.float32, torch.bfloat16)
    assert learning_dtypes(model) == {torch.float32}
    batch = labelled_inputs(Collator(processor)([make_example()]))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    gradients_of(model, batch)
    optimizer.step()
    learnt = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    for kind in ("lora_B", "modules_to_save"):
        moved = [not torch.equal(before[name], learnt[name]) for name in learnt if kind in name]
        assert all(moved)
        assert moved or kind == "modules_to_save"
    assert_learning(model, torch.float32)

    model.save_pretrained(tmp_path)
    again = load_adapter(load(), read_adapter(str(tmp_path)))
    loaded = dict(again.named_parameters())
    assert all(torch.equal(learnt[name], loaded[name]) for name in learnt)
    base = again.get_base_model()
    assert base.get_input_embeddings().weight is base.get_output_embeddings().weight
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        one, other = (learner(**batch).logits for learner in (model, again))
    assert torch.equal(one, other)


def test_a_small_update_moves_every_weight_in_float32_and_hardly_any_in_bfloat16() -> None:
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model("tiny", load_config("tiny"), dtype=torch.float32)
        apply_freeze(model, TEXT_ONLY)
        store_what_learns(model, dtype, torch.bfloat16)
        weight = model.model.language_model.layers[0].mlp.up_proj.weight
        before = weight.detach().clone()
        weight.data -= 1e-5
        moved[dtype] = (weight != before).float().mean().item()
    assert moved[torch.float32] > 0.99
    assert moved[torch.bfloat16] < 0.1


def test_bfloat16_learning_is_asked_for_by_name_and_warned_of(
    random_model: Build, reported: Callable[[], str]
) -> None:
    model = random_model(num_layers=1, hidden_size=64)
    apply_freeze(model, TEXT_ONLY)
    store_what_learns(model, torch.bfloat16, torch.bfloat16)
    assert learning_dtypes(model) == {torch.bfloat16}
    assert "an update smaller than 1/256 of a weight vanishes" in reported()
    with pytest.raises(UserError, match=r"cannot learn under trainer\.fp16=true"):
        store_what_learns(model, torch.bfloat16, torch.float16)


def test_a_parameter_of_another_format_is_listed(random_model: Build) -> None:
    model = random_model(num_layers=1, hidden_size=64)
    model.model.multi_modal_projector.linear.bias.data = torch.zeros(64, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"1 learning parameters are not .*projector\.linear\.bias"):
        assert_learning(model, torch.float32)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.model.multi_modal_projector.linear.bias.data = torch.zeros(64)
    with pytest.raises(RuntimeError, match="no longer one tensor"):
        assert_learning(model, torch.float32)


def test_mixed_formats_without_autocast_are_refused_with_the_way_out(random_model: Build) -> None:
    model = random_model(num_layers=1, hidden_size=64).bfloat16()
    apply_freeze(model, TEXT_ONLY)
    with pytest.raises(UserError, match=r"bfloat16 and float32: choose model\.dtype=float32, or trainer"):
        store_what_learns(model, torch.float32, None)


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_adapters_learn_without_autocast(
    random_model: Build,
    processor: PaliGemmaProcessor,
    make_example: MakeExample,
    variant: dict[str, Any],
) -> None:
    model = add_adapter(
        random_model(num_layers=1, hidden_size=64).bfloat16(), FreezePolicy(), PeftConfig(**variant)
    )
    store_what_learns(model, torch.float32, None)
    batch = labelled_inputs(Collator(processor)([make_example()]))
    model(**batch, use_cache=False).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_B" in name)
