"""Time and memory of a LoRA training step, next to the usual Trainer script, on the real 3B shape.

python benchmarks/step.py [--workload W1] [--runners hf hf_checkpointing ours] [--batch 2] [--steps 3]

Each runner first shows that it computes the same: on the first batch, from the same adapter, its loss and
the gradient of the adapter are compared with those of `ours`. Then the runners take turns in the order A B
B A, each turn in a process of its own, on the same examples in the same order. A line of JSON for each turn
goes to `--out`, and a table is printed.

Runners: `hf` is the script of Hugging Face's tutorial on this version of transformers (Trainer, PEFT, its
own collator with `suffix=`), `hf_checkpointing` the same with activation checkpointing, `ours` what `train`
runs, `ours_checkpointing` too; `ours_separate` has a row for each suffix of W2.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from base_3b import make_base
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from workloads import WORKLOADS, digest, draw_examples

from finetune.example import Example

RANK = 8
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
HERE = Path(__file__).resolve().parent


class Clock(TrainerCallback):
    """Two timers: the wall's and the processor's, at the end of each step."""

    def __init__(self) -> None:
        self.wall, self.processor = [time.perf_counter()], [time.process_time()]

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._tick()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the times of a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._tick()

    def _tick(self) -> None:
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())


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


def arguments(batch: int, steps: int, **more: Any) -> TrainingArguments:
    """Return what all runners share."""
    return TrainingArguments(
        output_dir="/tmp/finetune-step",
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=1e-5,
        bf16=True,
        optim="adamw_torch",
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        use_cpu=not torch.cuda.is_available(),
        **more,
    )


def build_hf(base: Path, checkpointing: bool) -> tuple[nn.Module, Any, type[Trainer], dict[str, Any]]:
    """Build the tutorial: everything by transformers and PEFT, adapters on the language model alone."""
    processor = PaliGemmaProcessor.from_pretrained(base)
    model = PaliGemmaForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=RANK, target_modules=TARGETS))

    def collate(examples: list[Example]) -> Any:
        return processor(
            text=["<image>" + example.prefix for example in examples],
            images=[example.images[0] for example in examples],
            suffix=[example.suffixes[0] for example in examples],
            return_tensors="pt",
            padding="longest",
        )

    return model, collate, Trainer, {"activation_checkpointing": checkpointing}


def build_ours(base: Path, runner: str) -> tuple[nn.Module, Any, type[Trainer], dict[str, Any]]:
    """Build what `train` does: `assembly.model.build_learner`, our collator and trainer."""
    from finetune.assembly.model import build_learner
    from finetune.config.compose import compose
    from finetune.data.batches.collator import Collator
    from finetune.model.load import load_config, load_processor
    from finetune.training.options import LossAverage, LossConfig
    from finetune.training.trainer import PaliGemmaTrainer

    off = runner.removeprefix("ours").removeprefix("_")
    words = ["recipe=vqav2_lora", f"model.path={base}", f"peft.r={RANK}"]
    if off == "checkpointing":
        words.append("trainer.activation_checkpointing=true")
    options = compose(words)
    processor = load_processor(str(base))
    learner = build_learner(options, load_config(str(base)), processor)
    collator = Collator(processor, every_suffix=off != "separate")

    class Ours(PaliGemmaTrainer):
        """Takes the examples in their order, and the tokens' mean, as the tutorial does."""

        def __init__(self, **given: Any) -> None:
            super().__init__(**given, loss=LossConfig(average=LossAverage.token))

        def _get_train_sampler(self, train_dataset: object = None) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def get_train_dataloader(self) -> Any:
            return Trainer.get_train_dataloader(self)

    return learner.model, collator, Ours, {}


def run_turn(given: argparse.Namespace) -> None:
    """Run one turn of one runner, and print its line of JSON."""
    workload = WORKLOADS[given.workload]
    base, runner = Path(given.base), given.runner
    images = draw_examples(workload, given.batch * (given.steps + 1), given.side)
    ours = runner.startswith("ours")
    build = build_ours(base, runner) if ours else build_hf(base, runner == "hf_checkpointing")
    model, collate, trainer_class, more = build
    shares = ours and runner != "ours_separate"
    examples = images if shares else one_suffix_each(images)
    batch = given.batch * (1 if shares else workload.targets)
    set_adapter(model)
    clock = Clock()
    trainer = trainer_class(
        model=model,
        args=arguments(batch, given.steps + 1, **more),
        data_collator=collate,
        train_dataset=Listed(examples),
        callbacks=[clock],
    )
    line = {"runner": runner, "workload": given.workload, "digest": digest(images)}
    if given.gradients is not None:
        line |= measure_gradient(trainer, collate(examples[:batch]), Path(given.gradients))
    else:
        trainer.train()
        line["seconds"] = [b - a for a, b in zip(clock.wall[2:], clock.wall[3:], strict=False)]
        line["processor"] = [b - a for a, b in zip(clock.processor[2:], clock.processor[3:], strict=False)]
    peak = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    print(json.dumps({**line, "peak_gib": round(peak / 2**30, 2)}), flush=True)


def measure_gradient(trainer: Trainer, batch: Any, file: Path) -> dict[str, float]:
    """Write the gradient of the adapter on one batch, and return the loss."""
    trainer.create_optimizer()
    model = trainer.model.train()
    inputs = trainer._prepare_inputs(batch)
    with torch.autocast(trainer.args.device.type, torch.bfloat16):  # `train` would wrap the model
        loss = trainer.compute_loss(model, inputs)
    torch.autograd.backward(loss)
    gradients = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    torch.save(gradients, file)
    return {"loss": loss.item()}


def turn(given: argparse.Namespace, runner: str, gradients: Path | None = None) -> dict[str, Any]:
    """Run one turn in a process of its own."""
    words = [
        sys.executable, __file__, "--runner", runner, "--workload", given.workload, "--base", given.base,
        "--batch", str(given.batch), "--steps", str(given.steps), "--side", str(given.side),
    ]  # fmt: skip
    if gradients is not None:
        words += ["--gradients", str(gradients)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{runner} failed:\n{done.stderr[-3000:]}")
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(line), file=sys.stderr, flush=True)
    with Path(given.out).open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    return line


def admit(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield the relative difference of the loss and the cosine of the gradients, by runner."""
    losses, vectors = {}, {}
    for runner in dict.fromkeys(["ours", *given.runners]):
        file = folder / f"{runner}.pt"
        losses[runner] = turn(given, runner, file)["loss"]
        gradients = torch.load(file)
        vectors[runner] = torch.cat([gradients[name].double().flatten() for name in sorted(gradients)])
        file.unlink()
        cosine = nn.functional.cosine_similarity(vectors["ours"], vectors[runner], dim=0).item()
        yield runner, abs(losses[runner] - losses["ours"]), cosine


def main() -> None:
    """Admit the runners, time them in turns, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", default="W1", choices=WORKLOADS)
    parser.add_argument("--runners", nargs="+", default=["hf_checkpointing", "hf", "ours"])
    parser.add_argument("--model", default="google/paligemma-3b-pt-224")
    parser.add_argument(
        "--folder", default="/tmp/finetune-benchmarks", help="for the random checkpoint, 6 GB"
    )
    parser.add_argument("--batch", type=int, default=2, help="images in a step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn, after one to warm up")
    parser.add_argument("--out", default="step.jsonl")
    parser.add_argument("--runner", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, default=224, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.runner is not None:
        run_turn(given)
        return
    folder = Path(given.folder)
    base = make_base(folder, given.model)
    given.base, given.side = str(base), int(given.model.rpartition("-")[2])
    admitted = {runner: (difference, cosine) for runner, difference, cosine in admit(given, folder)}
    order = [*given.runners, *reversed(given.runners)]
    lines = [turn(given, runner) for runner in order]
    reference = statistics.median(
        second for line in lines if line["runner"] == given.runners[0] for second in line["seconds"]
    )
    print("| runner | seconds a step | spread | processor seconds | faster | peak GiB | loss | cosine |")
    print("|---|---|---|---|---|---|---|---|")
    for runner in given.runners:
        own = [line for line in lines if line["runner"] == runner]
        seconds = [second for line in own for second in line["seconds"]]
        middle = statistics.median(seconds)
        processor = statistics.median(second for line in own for second in line["processor"])
        difference, cosine = admitted[runner]
        verdict = "" if difference < 1e-3 and cosine > 0.999 else " (computes something else)"
        print(
            f"| {runner}{verdict} | {middle:.2f} | {min(seconds):.2f} to {max(seconds):.2f} "
            f"| {processor:.2f} | {reference / middle:.2f} | {max(line['peak_gib'] for line in own)} "
            f"| {difference:.1e} | {cosine:.5f} |"
        )


if __name__ == "__main__":
    main()
