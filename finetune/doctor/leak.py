"""The attention mask's leak test: no token may depend on what follows it, and the prefix must see itself.

A training script whose mask leaks learns to copy the answer it is shown: its loss goes to nothing, and its
adapter is worthless. The test runs the real collator and the real forward pass on random models of both
backbones, with every attention kernel that a run may choose on this machine.
"""

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.doctor.devices import list_devices
from finetune.doctor.finding import Finding, ok, problem
from finetune.example import Batch, Example
from finetune.model.forward import compute_logits, to_device
from finetune.model.last_layer import compute_supervised_rows
from finetune.model.load import load_config, load_processor, use_as_big_vision

BACKBONES = {"paligemma": "gemma", "paligemma2": "gemma2"}
"""Name of the backbone -> transformers' name of its language model."""

KERNELS = {
    "paligemma": ("sdpa", "eager", "split_sdpa", "split_eager"),
    "paligemma2": ("eager", "split_eager"),
}
"""Backbone -> the kernels of `model.attention` that compute it everywhere."""

_LAST = 3
"""Tokens at the end of a prefix, with its newline, that the first image token must see."""

_EQUAL = 1e-5
"""Largest difference of logits that counts as none: rounding of float32 over a few layers."""


def check_mask() -> Iterator[Finding]:
    """Run the leak test on every backbone, kernel and device."""
    processor = load_processor("tiny")
    image = Image.radial_gradient("L").convert("RGB")
    examples = [
        Example("short", (image,), "answer en which?", ("a b c d e",)),
        Example("long", (image,), "answer en which of these letters is it?", ("e",)),
    ]
    batch = Collator(processor)(examples)  # of two lengths, so that it has padding
    for backbone, kernels in KERNELS.items():
        for kernel in kernels:
            for device in list_devices():
                model = build_random_model(backbone, kernel, processor).to(device)
                yield describe_mask(f"mask of {backbone}, {kernel}", model, to_device(batch, device))


def describe_mask(subject: str, model: PaliGemmaForConditionalGeneration, batch: Batch) -> Finding:
    """Return what the leak test says of one model."""
    remedy = "model.attention=eager, and report this: a run here would learn from its own answers"
    try:
        leaks, blind = find_leaks(model, batch), find_blind(model, batch)
    except (RuntimeError, ValueError, ImportError) as error:
        return problem(subject, f"fails: {error}", "model.attention=eager")
    if leaks:
        return problem(subject, f"leaks: {leaks} tokens of the answer change what precedes them", remedy)
    if blind:
        return problem(
            subject, f"the prefix is causal: {blind} of its tokens change nothing before", remedy
        )
    return ok(subject, "no token sees what follows it, and the prefix sees all of itself")


def build_random_model(
    backbone: str, kernel: str, processor: PaliGemmaProcessor
) -> PaliGemmaForConditionalGeneration:
    """Build a small model with random float32 weights, the same each time.

    Args:
        backbone: a key of `BACKBONES`.
        kernel: attention kernel of the language model.
        processor: of the tiny base, whose tokens the model reads.
    """
    tiny = load_config("tiny")
    sizes = tiny.text_config.to_dict()
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim")
    text = {name: sizes[name] for name in (*fields, "num_key_value_heads", "num_image_tokens")}
    text |= {"model_type": BACKBONES[backbone], "num_hidden_layers": 2}
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=tiny.vision_config.to_dict(),
        image_token_index=processor.image_token_id,
        projection_dim=sizes["hidden_size"],
    )
    use_as_big_vision(config)
    config.text_config._attn_implementation = kernel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PaliGemmaForConditionalGeneration(config).float()
    # The kernels without a mask over all pairs compute training only, and the test reads every position.
    compute_supervised_rows(model, everywhere=True)
    return model.train()


def compute_all_logits(
    model: PaliGemmaForConditionalGeneration, batch: Batch, row: int, change: int | None = None
) -> Tensor:
    """Return the logits of one row at every position: (T, V).

    Args:
        model: without dropout.
        batch: on the model's device; not changed.
        row: index of the row.
        change: a position whose token is replaced by another one.
    """
    every = torch.arange(batch["input_ids"].numel())
    columns = (every % batch["input_ids"].shape[1]).view(batch["input_ids"].shape)
    changed: Batch = {**batch, "columns": columns, "places": every}
    if change is not None:
        changed["input_ids"] = batch["input_ids"].clone()
        changed["input_ids"][row, change] += 1
    rows, length = batch["input_ids"].shape
    with torch.no_grad():
        return compute_logits(model, changed).view(rows, length, -1)[row]


def find_leaks(model: PaliGemmaForConditionalGeneration, batch: Batch) -> int:
    """Count the tokens of suffixes, and of padding, that change the logits of a position before them."""
    leaks = 0
    for row, types in enumerate(batch["token_type_ids"]):
        plain = compute_all_logits(model, batch, row)
        for position in types.nonzero()[:, 0].tolist():
            changed = compute_all_logits(model, batch, row, position)
            leaks += bool((changed - plain)[:position].abs().max() > _EQUAL)
    return leaks


def find_blind(model: PaliGemmaForConditionalGeneration, batch: Batch) -> int:
    """Count the tokens at the end of prefixes that do not change the logits of the first image token."""
    blind = 0
    for row, types in enumerate(batch["token_type_ids"]):
        plain = compute_all_logits(model, batch, row)
        end = int(types.argmax())
        for position in range(end - _LAST, end):
            changed = compute_all_logits(model, batch, row, position)
            blind += bool((changed - plain)[0].abs().max() <= _EQUAL)
    return blind
