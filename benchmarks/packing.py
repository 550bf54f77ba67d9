"""Processor time of a step on packed rows, next to padded ones.

python benchmarks/packing.py [--backbone paligemma] [--layers 3] [--turns 2]

Forward and backward of decoder layers with the widths of PaliGemma 3B (LoRA of rank 8, bfloat16) on the
lengths of `workloads.py`, without the vision tower: one forward pass of 16 examples as they were drawn, and
three of the eight passes into which 64 examples are sorted.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from runners import RANK, TARGETS, set_adapter
from torch import nn
from transformers import PaliGemmaForConditionalGeneration
from workloads import WORKLOADS, draw_examples

from finetune.data.batches.collator import Collator
from finetune.example import Batch, Example
from finetune.model.forward import compute_losses
from finetune.model.kernels import use_kernel
from finetune.model.load import load_processor
from finetune.model.packing import use_packing
from finetune.model.published import published_config
from finetune.model.surgery import operate
from finetune.speed import SpeedOptions

SIDE, TOKENS = 224, 256
NAMES = {"paligemma": "google/paligemma-3b-pt-224", "paligemma2": "google/paligemma2-3b-pt-224"}


def build(name: str, layers: int, vocabulary: int, image_token: int) -> nn.Module:
    """Return a model with random weights, few layers and hardly a vision tower."""
    config = published_config(name)
    assert config is not None
    config.image_token_id, config.text_config.num_hidden_layers = image_token, layers
    config.text_config.vocab_size = vocabulary
    config.vision_config.num_hidden_layers = 1
    if config.text_config.model_type == "gemma2":
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    torch.manual_seed(0)
    dense = "eager" if config.text_config.model_type == "gemma2" else "sdpa"
    model = PaliGemmaForConditionalGeneration._from_config(
        config, dtype=torch.bfloat16, attn_implementation=dense
    )
    adapted: nn.Module = get_peft_model(model, LoraConfig(r=RANK, target_modules=TARGETS))
    set_adapter(adapted)
    operate(adapted.train(), SpeedOptions(), autocast=True)
    return adapted


def measure(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the processor seconds of forward and backward."""
    began = time.process_time()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = compute_losses(model, batch).sum()
        torch.autograd.backward(loss)
    return time.process_time() - began


def store_features(batch: Batch, width: int) -> Batch:
    """Put stored features in the place of the images."""
    features = torch.zeros(len(batch["prefix_lengths"]), TOKENS, width, dtype=torch.bfloat16)
    return {**batch, "pixel_values": batch["pixel_values"][:0], "features": features}


def lay_out(examples: Sequence[Example], collate: Any) -> dict[str, list[Batch]]:
    """Return the batches of one pass of 16 examples, and of three passes of 64 that are sorted."""
    batches = [collate([example]) for example in examples]
    order = sorted(range(64), key=lambda place: -batches[place]["lengths"][0])
    passes = [[examples[place] for place in order[first : first + 8]] for first in (0, 24, 56)]
    return {"16 at once": [collate(examples[:16])], "64, 8 at a time": [collate(some) for some in passes]}


def main() -> None:
    """Print a line for each workload and division of a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="paligemma", choices=NAMES)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS))
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    processor = load_processor("tiny")
    processor.image_seq_length = TOKENS
    model = build(NAMES[given.backbone], given.layers, len(processor.tokenizer), processor.image_token_id)
    use_kernel(model, "split_eager")
    width = model.base_model.model.config.vision_config.hidden_size  # type: ignore[union-attr]
    print("| workload | step | tokens, padded | packed | seconds, padded | packed |")
    print("|---|---|---|---|---|---|")
    for name in given.workloads:
        examples = draw_examples(WORKLOADS[name], 64, 14)
        collator = Collator(processor, every_suffix=True)
        for step, batches in lay_out(examples, collator).items():
            batches = [store_features(batch, width) for batch in batches]
            padded = sum(batch["input_ids"].numel() for batch in batches)
            needed = sum(sum(batch["lengths"]) for batch in batches)
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for packs in [False, True, True, False] * given.turns:
                use_packing(model, packs)
                seconds[packs].append(measure(model, batches))
            before, after = min(seconds[False]), min(seconds[True])
            share = f"{after / before:.3f} of it"
            print(
                f"| {name} | {step} | {padded} | {needed / padded:.3f} of it | {before:.1f} | {share} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
