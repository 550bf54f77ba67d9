"""The ways to train that `step.py` compares: a trainer each, for the same model, adapter and examples.

- `hf`: the script of Hugging Face's tutorial on this version of transformers: Trainer, PEFT, the
  processor's own batches with `suffix=`. `hf_checkpointing`: the same with activation checkpointing.
- `trl`: SFTTrainer with our collator, because its own trains on something else. `trl_checkpointing`: as it
  comes, which is with activation checkpointing.
- `ours`: what `train` runs. Words after it change options: `ours:trainer.speed.last_layer=false`. With
  `ours:trainer.speed.feature_cache=true` it is an epoch after the first one: features are on disk.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from finetune.data.stored.store import ImageStore
from finetune.example import Example
from finetune.model.features import describe_features, take_images

RANK = 8
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

Collate = Callable[[Sequence[Example]], Any]


class Listed(Dataset[Example]):
    """Examples in their order."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def one_suffix_each(examples: Sequence[Example]) -> list[Example]:
    """Return an example for each suffix."""
    return [
        Example(f"{example.id}.{number}", example.images, example.prefix, (text,), epoch=0)
        for example in examples
        for number, text in enumerate(example.suffixes)
    ]


def set_adapter(model: nn.Module) -> None:
    """Give every runner the same adapter; both matrices are drawn, so that both have gradients."""
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            seed = int.from_bytes(name.encode()[-6:], "little") % 2**31
            with torch.no_grad():
                parameter.normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))


def load_learner(base: Path, full: bool) -> nn.Module:
    """Load the base in bfloat16 as the tutorial does, with adapters on the language model alone.

    Args:
        base: folder of the checkpoint.
        full: in float32, without an adapter; the language model learns.
    """
    if full:
        whole = PaliGemmaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        for name, parameter in whole.named_parameters():
            parameter.requires_grad_("language_model" in name or "lm_head" in name)
        return whole
    model = PaliGemmaForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    adapted: nn.Module = get_peft_model(model, LoraConfig(r=RANK, target_modules=TARGETS))
    set_adapter(adapted)
    return adapted


class Training(NamedTuple):
    """What every runner is to do."""

    base: Path
    """Folder of the checkpoint."""
    examples: Sequence[Example]
    """With one or several suffixes; all but `ours` get one row for each suffix."""
    batch: int
    """Images of a step."""
    steps: int
    clock: TrainerCallback
    """Measures the steps."""
    full: bool = False
    """See `load_learner`."""


def set_arguments(kind: type[TrainingArguments], asked: Training, **more: Any) -> TrainingArguments:
    """Return transformers' arguments, of which all runners share these."""
    return kind(
        output_dir="/tmp/finetune-step",
        max_steps=asked.steps,
        per_device_train_batch_size=asked.batch,
        learning_rate=1e-5,
        bf16=True,
        optim="adamw_torch",
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        use_cpu=not torch.cuda.is_available(),
        **more,
    )


def build_hf(asked: Training, word: str) -> tuple[Trainer, Collate]:
    """Build the tutorial's trainer, and what makes its batches."""
    processor = PaliGemmaProcessor.from_pretrained(asked.base)

    def collate(rows: Sequence[Example]) -> Any:
        return processor(
            text=["<image>" + row.prefix for row in rows],
            images=[row.images[0] for row in rows],
            suffix=[row.suffixes[0] for row in rows],
            return_tensors="pt",
            padding="longest",
        )

    trainer = Trainer(
        model=load_learner(asked.base, asked.full),
        args=set_arguments(TrainingArguments, asked, activation_checkpointing=word == "checkpointing"),
        data_collator=collate,
        train_dataset=Listed(asked.examples),
        callbacks=[asked.clock],
    )
    return trainer, collate


def build_trl(asked: Training, word: str) -> tuple[Trainer, Collate]:
    """Build TRL's trainer, with our batches."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    from finetune.data.batches.collator import Collator

    processor = PaliGemmaProcessor.from_pretrained(asked.base)
    make = Collator(processor, uint8_pixels=False)
    read = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "labels")

    def collate(rows: Sequence[Any]) -> Any:
        chosen = [row if isinstance(row, Example) else asked.examples[row["image"]] for row in rows]
        made = make(chosen)
        return {name: made[name] for name in read}

    trainer = SFTTrainer(
        model=load_learner(asked.base, asked.full),
        args=set_arguments(SFTConfig, asked, gradient_checkpointing=word == "checkpointing"),
        data_collator=collate,
        # It takes no other kind of dataset; a column of this name makes it leave the rows as they are.
        train_dataset=datasets.Dataset.from_dict({"image": list(range(len(asked.examples)))}),
        processing_class=processor,
        callbacks=[asked.clock],
    )
    return trainer, collate


def list_words(base: Path, full: bool) -> list[str]:
    """Return the words of a training of ours that learns what `load_learner` lets learn."""
    method = ["peft=none", "freeze=vision"] if full else [f"peft.r={RANK}"]
    return ["recipe=vqav2_lora", f"model.path={base}", f"model.resolution={read_side(base)}", *method]


def read_side(base: Path) -> int:
    """Return the side of a checkpoint's images, pixels."""
    return int(json.loads((base / "config.json").read_text())["vision_config"]["image_size"])


class Cached(Listed):
    """Examples with what a frozen vision tower makes of their images, on disk."""

    def __init__(self, examples: Sequence[Example], model: nn.Module, collate: Collate, side: int) -> None:
        super().__init__(examples)
        shape, dtype = describe_features(model, side)
        folder = Path(tempfile.mkdtemp(prefix="finetune-features-"))
        self.store = ImageStore(folder / "features" / "benchmark", {}, shape, dtype)
        for number, example in enumerate(examples):
            pixels = collate([replace(example, suffixes=example.suffixes[:1])])["pixel_values"]
            with torch.no_grad():
                features = take_images(model).vision_tower(pixels).last_hidden_state
            self.store.write(f"{number:032x}", features[0], (side, side))

    def __getitem__(self, index: int) -> Example:
        stored = self.store.read(f"{index:032x}")
        assert stored is not None
        return replace(
            self.examples[index], images=(), keys=(f"{index:032x} 1 1",), stored=(stored.values,)
        )


def build_ours(asked: Training, word: str) -> tuple[Trainer, Collate]:
    """Build what `train` does: `assembly.model.build_learner`, our collator and trainer."""
    from finetune.assembly.attention import settle_attention
    from finetune.assembly.model import build_learner
    from finetune.assembly.packing import settle_packing
    from finetune.config.compose import compose
    from finetune.data.batches.collator import Collator
    from finetune.model.load import load_config, load_processor
    from finetune.training.options import LossAverage, LossConfig
    from finetune.training.trainer import PaliGemmaTrainer

    base, examples = asked.base, asked.examples
    words = [*list_words(base, asked.full), "collator.targets=all", *filter(None, word.split(","))]
    options = compose(words)
    processor = load_processor(str(base))
    learner = build_learner(options, load_config(str(base)), processor)
    if not asked.full:
        set_adapter(learner.model)

    class Ours(PaliGemmaTrainer):
        """Takes the examples in their order."""

        def _get_train_sampler(self, train_dataset: object = None) -> Any:
            return SequentialSampler(self.train_dataset)

        def get_train_dataloader(self) -> Any:
            return Trainer.get_train_dataloader(self)

    collate = Collator(processor, every_suffix=options.collator.targets == "all")
    listed = Listed(examples)
    if options.trainer.speed.feature_cache:
        floats = Collator(processor, uint8_pixels=False)
        listed = Cached(examples, learner.model, floats, read_side(base))
    trainer = Ours(
        learner.model,
        set_arguments(TrainingArguments, asked),
        collate,
        listed,
        loss=LossConfig(average=LossAverage.token),  # as the others do
        callbacks=[asked.clock],
    )
    settle_attention(options, learner.model, collate(examples[: asked.batch]), recorded=None)
    settle_packing(options, trainer, np.array([collate([example])["lengths"][0] for example in examples]))
    return trainer, collate


BUILDERS = {"hf": build_hf, "trl": build_trl, "ours": build_ours}


def build(runner: str, asked: Training) -> tuple[Trainer, Any]:
    """Build the trainer of a runner, whose name is as the module says, and its first batch."""
    name, _, word = runner.partition(":") if ":" in runner else runner.partition("_")
    if name != "ours" or "collator.targets=one" in word:
        rows = one_suffix_each(asked.examples)
        asked = asked._replace(examples=rows, batch=asked.batch * len(asked.examples[0].suffixes))
    trainer, collate = BUILDERS[name](asked, word)
    return trainer, collate(asked.examples[: asked.batch])
