"""Every shortcut alone, and all together, has the losses and gradients of transformers' own forward."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.data.batches.grouping import Passes
from finetune.data.stored.store import ImageStore, make_key
from finetune.example import Batch, Example
from finetune.model.features import describe_features, keep_features
from finetune.model.forward import compute_losses
from finetune.model.loss import compute_example_losses
from finetune.model.packing import use_packing
from finetune.model.surgery import operate
from finetune.model.towers import find_tower
from finetune.speed import SpeedOptions
from tests.conftest import noise_image, plain_inputs

Build = Callable[..., PaliGemmaForConditionalGeneration]

OFF = SpeedOptions(**{field.name: False for field in fields(SpeedOptions) if "bool" in str(field.type)})
"""Without any shortcut."""


class Case(NamedTuple):
    """A way to train on the same examples."""

    speed: SpeedOptions = OFF
    kernel: str | None = None
    """None: the dense mask."""
    shares_rows: bool = False
    """All suffixes of an example are in one row."""
    from_store: bool = False
    """What the vision tower makes of the images is stored."""


ALONE = {
    field.name: Case(replace(OFF, **{field.name: True}))
    for field in fields(OFF)
    if field.name not in ("feature_cache", "checkpoint_every", "packing")
} | {
    "feature_cache": Case(from_store=True),
    "checkpoint_every": Case(replace(OFF, checkpoint_every=1)),
    "checkpoint_every_2": Case(replace(OFF, checkpoint_every=2)),
    "split_sdpa": Case(kernel="split_sdpa"),
    "split_eager": Case(kernel="split_eager"),
    "targets": Case(shares_rows=True),
    "packing": Case(replace(OFF, packing=True), "split_eager"),
    "packing_sdpa": Case(replace(OFF, packing=True), "split_sdpa", shares_rows=True),
}
ELSEWHERE = {"compile": "test_compiling.py", "group_steps": "it changes the training"}
EVERYTHING = Case(SpeedOptions(packing=True), "split_eager", shares_rows=True, from_store=True)
TOGETHER = {
    "all": EVERYTHING,
    "all_recomputed": EVERYTHING._replace(speed=SpeedOptions(checkpoint_every=2), from_store=False),
}
METHODS = ["full", "full_frozen_tower", "lora", "lora_everywhere", "dora", "qlora", "modules_to_save"]
TEXT = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
LEARNING_TOWER = {"full", "lora_everywhere"}


def list_cases() -> Iterator[tuple[str, str, str]]:
    """Everything on PaliGemma 1; on PaliGemma 2 single shortcuts for two methods."""
    for name, case in {**ALONE, **TOGETHER}.items():
        for method in METHODS:
            for backbone in ("gemma", "gemma2"):
                if name in ELSEWHERE or (backbone == "gemma2" and case.kernel == "split_sdpa"):
                    continue
                if backbone == "gemma2" and name in ALONE and method not in ("full", "lora"):
                    continue
                if not (name == "feature_cache" and method in LEARNING_TOWER):
                    yield backbone, method, name


def draw_examples() -> list[Example]:
    """One step: several lengths, two images in an example, an image in several, several suffixes; the
    prefixes of the last two have one length."""
    red, blue = noise_image(1), noise_image(2)
    return [
        Example("two images", (red, blue), "a longer prefix than that", ("b c d",)),
        Example("again", (red,), "caption", ("a b c d e f g h", "a b", "c")),
        Example("blue", (blue,), "answer en", ("e", "f g")),
        Example("prefix", (blue,), "what is a b c", ("d",)),
        Example("short", (red,), "c", ("a",)),
        Example("long", (red,), "x", ("a b c d e f",)),
    ]


def divide(examples: list[Example]) -> list[list[Example]]:
    """Return the examples of each forward pass."""
    half = len(examples) // 2 - 1
    return [examples[:half], examples[half:-2], examples[-2:]]


def quantize(model: nn.Module) -> None:
    """Store the language model's layers in 4 bits, and compute with them in float32."""
    for module in model.get_submodule("model.language_model.layers").modules():
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear):
                packed = bnb.nn.Linear4bit(
                    layer.in_features, layer.out_features, bias=False, compute_dtype=torch.float32
                )
                packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
                setattr(module, name, packed.to("cpu"))


def adapt(model: PaliGemmaForConditionalGeneration, method: str) -> nn.Module:
    if method.startswith("full"):
        model.model.vision_tower.requires_grad_(method == "full")
        return model
    if method == "qlora":
        quantize(model)
        model.is_loaded_in_4bit = True
    copied = ["multi_modal_projector"] if method == "modules_to_save" else None
    config = LoraConfig(
        r=4,
        target_modules="all-linear" if method == "lora_everywhere" else TEXT,
        use_dora=method == "dora",
        modules_to_save=copied,
        init_lora_weights=False,
    )
    return get_peft_model(model, config)


class Outcome(NamedTuple):
    losses: dict[tuple[str, tuple[int, ...]], Tensor]
    """By the id of the example and the tokens of its suffix."""
    gradients: dict[str, Tensor]


def run(model: nn.Module, batches: list[Batch], compute: Callable[[nn.Module, Batch], Tensor]) -> Outcome:
    """Accumulate the gradients of all forward passes of a step."""
    losses = {}
    for batch in batches:
        found = compute(model, batch)
        torch.autograd.backward(found.sum() / 9)
        for number, (name, loss) in enumerate(zip(batch["ids"], found.detach(), strict=True)):
            tokens = batch["targets"][batch["segments"] == number]
            losses[name, tuple(tokens.tolist())] = loss
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Outcome(losses, gradients)


def compute_plainly(model: nn.Module, batch: Batch) -> Tensor:
    """The losses of transformers' own forward: each image by itself, logits at all positions."""
    logits = model(**plain_inputs(batch), use_cache=False).logits[:, :-1]
    kept = batch["labels"][:, 1:] != -100
    return compute_example_losses(logits[kept], batch["targets"], batch["segments"], len(batch["ids"]))


def take_from_store(
    model: nn.Module, collate: Collator, examples: list[Example], folder: Path
) -> list[Example]:
    """Return the examples with what the tower makes of their images, written to a store and read again."""
    store = ImageStore(folder, {}, *describe_features(model, 56))

    def keep(keys: list[str], features: Tensor) -> None:
        for key, values in zip(keys, features, strict=True):
            store.write(key.split()[0], values, (1, 1))

    named = [
        replace(example, keys=tuple(f"{make_key(image.tobytes())} 1 1" for image in example.images))
        for example in examples
    ]
    keep_features(model, keep)
    with torch.no_grad():
        for example in named:  # without `distinct_images`, only where no image is in a batch twice
            compute_losses(model, collate([example]))
    read = [[store.read(key.split()[0]) for key in example.keys] for example in named]
    assert all(None not in row for row in read)
    return [
        replace(example, images=(), stored=tuple(one.values for one in row if one is not None))
        for example, row in zip(named, read, strict=True)
    ]


@pytest.fixture(scope="module")
def outcome(
    random_model: Build, processor: PaliGemmaProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Outcome]:
    """Take a step; each result is computed once."""

    def build(backbone: str, method: str) -> nn.Module:
        return adapt(random_model(backbone, num_layers=3, hidden_size=64), method).train()

    @cache
    def compute(backbone: str, method: str, name: str) -> Outcome:
        model, examples = build(backbone, method), draw_examples()
        separate = [replace(e, suffixes=(text,)) for e in examples for text in e.suffixes]
        if name == "plain":
            collate = Collator(processor, uint8_pixels=False)
            return run(model, [collate(part) for part in divide(separate)], compute_plainly)
        case = {**ALONE, **TOGETHER}[name]
        speed = case.speed
        operate(model, speed, activation_checkpointing=speed.checkpoint_every is not None)
        use_packing(model, bool(speed.packing))
        config: Any = find_tower(model, "language_model").config
        config._attn_implementation = case.kernel or config._attn_implementation
        collate = Collator(processor, uint8_pixels=speed.uint8_pixels, every_suffix=case.shares_rows)
        examples = examples if case.shares_rows else separate
        if speed.group_lengths:
            lengths = np.array([len(e.prefix) + sum(map(len, e.suffixes)) for e in examples])
            examples = [examples[place] for place in Passes(len(examples) // 3, 1, 3).deal(lengths)]
        if case.from_store and method not in LEARNING_TOWER:
            examples = take_from_store(model, collate, examples, tmp_path_factory.mktemp("store"))
        return run(model, [collate(part) for part in divide(examples)], compute_losses)

    return compute


@pytest.mark.parametrize(("backbone", "method", "name"), list(list_cases()))
def test_a_shortcut_has_the_losses_and_gradients_of_the_plain_path(
    outcome: Callable[..., Outcome], backbone: str, method: str, name: str
) -> None:
    plain, fast = outcome(backbone, method, "plain"), outcome(backbone, method, name)
    assert fast.losses.keys() == plain.losses.keys()
    assert len(plain.losses) == 9
    for key, loss in plain.losses.items():
        assert torch.allclose(fast.losses[key], loss, rtol=1e-6, atol=0), key
    assert plain.gradients
    assert fast.gradients.keys() == plain.gradients.keys()
    # A key's bias has no gradient: what is computed of it is rounding.
    rounding = 1e-7 * max(gradient.norm() for gradient in plain.gradients.values())
    for parameter, gradient in plain.gradients.items():
        difference = (fast.gradients[parameter] - gradient).norm()
        assert difference <= 1e-5 * gradient.norm() + rounding, parameter


def test_every_shortcut_is_compared() -> None:
    compared = {name for _, _, name in list_cases()}
    assert {field.name for field in fields(SpeedOptions)} <= compared | ELSEWHERE.keys()
    assert compared >= ALONE.keys() - ELSEWHERE.keys()


def list_techniques(random_model: Build, method: str, **more: Any) -> set[str]:
    model = adapt(random_model(num_layers=1), method)
    return {row.option for row in operate(model, SpeedOptions(), **more) if row.is_on}


def test_the_shortcuts_of_a_model_are_on_where_they_apply(random_model: Build) -> None:
    """So that the equality above is not that of two plain paths."""
    anywhere = {"last_layer", "distinct_images", "lean_mlp", "lean_norms"}
    with_adapter = anywhere | {"frozen_tower", "lean_adapters"}
    assert list_techniques(random_model, "full") == anywhere
    assert list_techniques(random_model, "lora") == with_adapter
    assert list_techniques(random_model, "lora", autocast=True) == with_adapter | {"half_inputs"}
    assert list_techniques(random_model, "qlora") == with_adapter
    assert list_techniques(random_model, "dora") == with_adapter - {"lean_adapters", "lean_mlp"}


def test_lean_passes_are_off_where_weights_are_divided_among_devices(random_model: Build) -> None:
    """Their backward passes read weights that are not there then."""
    lean = {"lean_adapters", "lean_mlp", "lean_norms"}
    model = adapt(random_model(num_layers=2), "lora")
    rows = operate(model, SpeedOptions(), sharding="trainer.extra.fsdp")
    found = {row.option: row.detail for row in rows if not row.is_on and row.option in lean}
    assert found == dict.fromkeys(lean, "trainer.extra.fsdp divides the weights among devices")
    assert not any(
        "forward" in vars(part) for part in find_tower(model, "language_model").layers[0].modules()
    )
