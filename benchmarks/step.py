"""Time and memory of a LoRA training step, next to the usual scripts, on the real 3B shape.

python benchmarks/step.py [--workload W1] [--runners hf_checkpointing hf trl ours] [--batch 2] [--steps 3]

Each runner (see `runners.py`) first shows that it computes the same: on the first batch, from the same
adapter, its loss and the gradient of the adapter are compared with those of `ours`. Then the runners take
turns in the order A B B A, each turn in a process of its own, on the same examples in the same order. A
line of JSON for each turn goes to `--out`, and a table is printed. A runner whose packages are missing is
left out, and so is what does not fit into `--minutes`; both are said. W6 needs a device of 48 GB.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from base_3b import make_base
from runners import Training, build, list_words, read_side
from torch import Tensor
from transformers import Trainer, TrainerCallback
from workloads import WORKLOADS, digest, draw_examples, measure_rows

from finetune.assembly.estimate import RunEstimate
from finetune.config.compose import compose
from finetune.data.batches.collator import Collator
from finetune.model.load import load_config, load_processor
from finetune.model.peak import find_peak

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


def run_turn(given: argparse.Namespace) -> None:
    """Run one turn of one runner, and print its line of JSON."""
    workload, base, clock = WORKLOADS[given.workload], Path(given.base), Clock()
    examples = draw_examples(workload, given.batch * (given.steps + 1), read_side(base))
    asked = Training(base, examples, given.batch, given.steps + 1, clock, workload.full)
    trainer, batch = build(given.runner, asked)
    line = {"runner": given.runner, "workload": given.workload, "digest": digest(examples)}
    if given.gradients is not None:
        line |= measure_gradient(trainer, batch, Path(given.gradients))
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
        "--batch", str(given.batch), "--steps", str(given.steps),
    ]  # fmt: skip
    if gradients is not None:
        words += ["--gradients", str(gradients)]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
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
    expected: dict[str, Any] = {}
    file = folder / "gradients.pt"
    for runner in dict.fromkeys(["ours", *given.runners]):
        loss = turn(given, runner, file)["loss"]
        gradients = torch.load(file)
        file.unlink()
        vectors = [gradients[name].flatten() for name in sorted(gradients)]
        expected = expected or {"loss": loss, "vectors": vectors}
        yield runner, abs(loss / expected["loss"] - 1), compute_cosine(expected["vectors"], vectors)


def compute_cosine(expected: list[Tensor], vectors: list[Tensor]) -> float:
    """Return the cosine of two gradients; part by part, for those of a whole model are large."""
    pairs = list(zip(expected, vectors, strict=True))
    products, squares, others = (
        sum(torch.dot(a.double(), b.double()).item() for a, b in some)
        for some in (pairs, [(a, a) for a in expected], [(b, b) for b in vectors])
    )
    return products / math.sqrt(squares * others)


def count_useful(given: argparse.Namespace) -> float:
    """Return the useful operations of a step, the same for every runner."""
    workload, base = WORKLOADS[given.workload], Path(given.base)
    collator = Collator(load_processor(given.base), every_suffix=True)
    examples = draw_examples(workload, given.batch * (given.steps + 1), read_side(base))
    estimate = RunEstimate(
        compose(list_words(base, workload.full)), load_config(given.base), measure_rows(collator, examples)
    )
    return given.batch * estimate.operations()[0]


def list_runners(names: list[str]) -> list[str]:
    """Return the runners whose packages are installed."""
    found = [name for name in names if not name.startswith("trl") or find_spec("trl")]
    for name in names:
        if name not in found:
            print(f"{name} is left out: its package is not installed.", file=sys.stderr)
    return found


def take_turns(given: argparse.Namespace, until: float) -> list[dict[str, Any]]:
    """Return the lines of all turns, A B B A, as far as time allows."""
    lines: list[dict[str, Any]] = []
    longest = 0.0
    for runner in [*given.runners, *reversed(given.runners)]:
        if time.monotonic() + longest > until:
            print(f"no time for another turn of {runner} (--minutes)", file=sys.stderr)
            continue
        began = time.monotonic()
        lines.append(turn(given, runner))
        longest = max(longest, time.monotonic() - began)
    return lines


def print_table(
    given: argparse.Namespace, admitted: dict[str, tuple[float, float]], lines: list[dict[str, Any]]
) -> None:
    """Print a row for each runner; `faster` compares with the first one."""
    measured = {
        runner: own
        for runner in given.runners
        if (own := [row for row in lines if row["runner"] == runner])
    }
    medians = {
        runner: statistics.median(second for line in own for second in line["seconds"])
        for runner, own in measured.items()
    }
    if not medians:
        raise SystemExit("--minutes was too short for a single turn.")
    first = next(iter(medians.values()))
    useful, peak = count_useful(given), find_peak(PartialState().device)
    targets = WORKLOADS[given.workload].targets
    names = (
        "runner", "seconds a step", "spread", "examples a second", "MFU", "processor seconds", "faster",
        "peak GiB", "loss differs by", "cosine",
    )  # fmt: skip
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for runner, own in measured.items():
        seconds = [second for line in own for second in line["seconds"]]
        processor = statistics.median(second for line in own for second in line["processor"])
        difference, cosine = admitted[runner]
        verdict = "" if difference < 1e-3 and cosine > 0.999 else " (computes something else)"
        print(
            f"| `{runner}`{verdict} | {medians[runner]:.2f} | {min(seconds):.2f} to {max(seconds):.2f} "
            f"| {given.batch * targets / medians[runner]:.2f} "
            f"| {useful / medians[runner] / (peak.tflops * 1e12):.1%} | {processor:.2f} "
            f"| {first / medians[runner]:.2f} | {max(line['peak_gib'] for line in own)} "
            f"| {difference:.1e} | {cosine:.5f} |"
        )
    print(
        f"\n{given.workload}, {WORKLOADS[given.workload].text}: {given.batch} images a step, inputs "
        f"{'/'.join(sorted({line['digest'] for line in lines}))}; {useful / 1e12:.3f} useful TFLOP a step, "
        f"MFU of {peak.tflops:.4g} TFLOP/s ({peak.source})"
    )


def main() -> None:
    """Admit the runners, time them in turns, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", default="W1", choices=WORKLOADS)
    parser.add_argument("--runners", nargs="+", default=["hf_checkpointing", "hf", "trl", "ours"])
    parser.add_argument(
        "--model", help="a published checkpoint; without it PaliGemma 3B of the workload's pixels"
    )
    parser.add_argument(
        "--folder", default="/tmp/finetune-benchmarks", help="for the random checkpoint, 6 GB"
    )
    parser.add_argument("--batch", type=int, default=2, help="images in a step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn, after one to warm up")
    parser.add_argument("--minutes", type=float, default=30, help="no turn begins that would end later")
    parser.add_argument("--out", default="step.jsonl")
    parser.add_argument("--runner", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--gradients", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.runner is not None:
        run_turn(given)
        return
    until = time.monotonic() + 60 * given.minutes
    folder = Path(given.folder)
    side = WORKLOADS[given.workload].side
    given.base = str(make_base(folder, given.model or f"google/paligemma-3b-pt-{side}"))
    given.runners = list_runners(given.runners)
    admitted = {runner: (difference, cosine) for runner, difference, cosine in admit(given, folder)}
    print_table(given, admitted, take_turns(given, until))


if __name__ == "__main__":
    main()
