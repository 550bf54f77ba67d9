"""Tunes a base on scikit-learn's handwritten digits with QLoRA, and prints the accuracy.

Uses peft and bitsandbytes directly, so that it judges the base alone and not the package.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from batches import Sequencer, answer_loss
from bitsandbytes.nn import Linear4bit
from measure import answer
from peft import LoraConfig, PeftModel, get_peft_model
from pictures import SIDE, Example
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from finetune.model.tiny import LOC_TOKENS, TINY_BASE

PROMPT = "answer en which digit is this?"
_TRAIN_SIZE = 1500
_DECODER = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
_TOWER = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
_PROJECTOR = r".*multi_modal_projector\.linear"
_TARGETS = {
    "decoder": _DECODER,
    "all": f"({_DECODER}|{_TOWER}|{_PROJECTOR})",
}


def read_digits() -> tuple[list[Example], list[Example]]:
    """Read the digits and split them in a fixed way.

    Returns:
        1,500 training examples and 297 test examples.
    """
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    examples = []
    for i in order:
        grey = np.round(digits.images[i] / 16 * 255).astype(np.uint8)
        picture = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture.convert("RGB"))
        examples.append(Example(pixels, PROMPT, str(digits.target[i])))
    return examples[:_TRAIN_SIZE], examples[_TRAIN_SIZE:]


def load_base(folder: Path, random_seed: int | None) -> Any:
    """Load a base with its decoder in NF4.

    Args:
        folder: The base.
        random_seed: Replace the weights by random ones from this seed; None keeps them.

    Returns:
        The quantised model.
    """
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )
    if random_seed is not None:
        torch.manual_seed(random_seed)
        config = PaliGemmaConfig.from_pretrained(folder)
        folder = Path("/tmp") / f"tiny_random_{random_seed}_{os.getpid()}"
        PaliGemmaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    model = PaliGemmaForConditionalGeneration.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.bfloat16
    )
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            # A name that the skip list does not match is quantised without a word.
            if "language_model" not in name:
                raise RuntimeError(f"{name} must not be quantised")
            # An evaluation would repack the weights for a kernel that has no backward pass, and
            # the training that follows would silently lose the gradients through these layers.
            module.support_avx512bf16_for_cpu = False
    return model


def add_adapter(model: Any, args: argparse.Namespace) -> PeftModel:
    """Freeze the base and put LoRA on it.

    Args:
        model: The quantised model.
        args: The command line's settings.

    Returns:
        The model with float32 LoRA weights.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(args.seed)
    lora = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=_TARGETS[args.targets],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def tune(model: PeftModel, sequencer: Sequencer, train: list[Example], args: Any) -> None:
    """Train the adapter.

    Args:
        model: The model with its adapter.
        sequencer: Builds the sequences.
        train: The training examples.
        args: The command line's settings.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.rate, weight_decay=0.0)
    per_epoch = len(train) // args.batch_size
    steps = per_epoch * args.epochs
    warm_up = max(1, round(0.05 * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rng = np.random.default_rng(args.seed)
    first_loc = sequencer.tokenizer.convert_tokens_to_ids(LOC_TOKENS[0])
    base = model.get_base_model()
    model.train()
    for _ in range(args.epochs):
        order, losses = rng.permutation(len(train)), []
        for step in range(per_epoch):
            rows = order[step * args.batch_size : (step + 1) * args.batch_size]
            batch = sequencer.batch([train[i] for i in rows])
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss(base, batch, first_loc)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        if args.verbose:
            print(f"loss {np.mean(losses):.4f}", flush=True)


def accuracy(model: Any, sequencer: Sequencer, examples: list[Example]) -> float:
    """Answer greedily and count exact matches.

    Args:
        model: The model.
        sequencer: Builds the prompts.
        examples: The test examples.

    Returns:
        The share of exact matches.
    """
    with torch.autocast("cpu", torch.bfloat16):
        texts = answer(model, sequencer, examples, max_new_tokens=4)
    return float(np.mean([t == e.suffix for t, e in zip(texts, examples, strict=True)]))


def parse() -> argparse.Namespace:
    """Read the command line.

    Returns:
        The settings.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=TINY_BASE)
    parser.add_argument("--random", action="store_true", help="tune random weights instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", choices=sorted(_TARGETS), default="decoder")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure before, tune, measure after."""
    args = parse()
    torch.set_num_threads(args.threads)
    train, test = read_digits()
    sequencer = Sequencer(AutoProcessor.from_pretrained(args.base))
    model = load_base(args.base, args.seed if args.random else None)
    began = time.time()
    before = accuracy(model, sequencer, test)
    model = add_adapter(model, args)
    tuned_from = time.time()
    tune(model, sequencer, train, args)
    tuned_until = time.time()
    after = accuracy(model.get_base_model(), sequencer, test)
    print(
        json.dumps(
            {
                "seed": args.seed,
                "random": args.random,
                "before": round(before, 4),
                "after": round(after, 4),
                "tune_seconds": round(tuned_until - tuned_from),
                "measure_seconds": round((time.time() - tuned_until + tuned_from - began) / 2, 1),
                "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
            }
        )
    )


if __name__ == "__main__":
    main()
