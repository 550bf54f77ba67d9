"""Peak memory of training steps on the real 3B shape, predicted next to measured.

python benchmarks/memory.py [--steps 3]

Each run is one of `ours` in `step.py`, in a process of its own. Predicted is what `plan` says for the
lengths of the workload, with the memory that such a process has before it loads a model. Needs 11 GiB.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from base_3b import make_base
from runners import RANK
from workloads import WORKLOADS, draw_examples, measure_rows

from finetune.assembly.estimate import estimate_here
from finetune.config.compose import compose
from finetune.data.batches.collator import Collator
from finetune.model.load import load_config, load_processor

HERE = Path(__file__).resolve().parent
RUNS = (
    ("W1", 2, ""),
    ("W1", 4, ""),
    ("W2", 2, ""),
    ("W1", 4, "trainer.activation_checkpointing=true"),
)
"""Workload, images of a step, and options of the run."""


def measure(base: Path, workload: str, batch: int, word: str, steps: int) -> float:
    """Return the peak of a training in a process of its own, GiB."""
    words = [sys.executable, str(HERE / "step.py"), "--base", str(base)]
    words += ["--runner", f"ours:{word}" if word else "ours", "--workload", workload]
    words += ["--batch", str(batch), "--steps", str(steps)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["peak_gib"])


def predict(base: Path, workload: str, batch: int, word: str, steps: int) -> float:
    """Return the estimate of the same training, GiB."""
    words = ["recipe=vqav2_lora", f"model.path={base}", f"peft.r={RANK}", "trainer.global_batch_size=null"]
    words += [f"trainer.per_device_train_batch_size={batch}", *filter(None, [word])]
    collator = Collator(load_processor(str(base)), every_suffix=True)
    examples = draw_examples(WORKLOADS[workload], batch * (steps + 1), 14)
    lengths = measure_rows(collator, examples)
    estimate = estimate_here(compose(words), load_config(str(base)), lengths)
    memory = estimate.memory(every=estimate.checkpoint_every)
    return (memory.allocated if torch.cuda.is_available() else memory.total) / 2**30


def main() -> None:
    """Print a row for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--folder", default="/tmp/finetune-benchmarks", help="for the random checkpoint, 6 GB"
    )
    given = parser.parse_args()
    base = make_base(Path(given.folder), "google/paligemma-3b-pt-224")
    print("| workload | images a step | options | predicted GiB | measured GiB | difference |")
    print("|---|---|---|---|---|---|")
    for workload, batch, word in RUNS:
        predicted = predict(base, workload, batch, word, given.steps)
        measured = measure(base, workload, batch, word, given.steps)
        difference = f"{predicted / measured - 1:+.1%}"
        print(
            f"| {workload} | {batch} | {word and f'`{word}`'} | {predicted:.2f} | {measured:.2f} "
            f"| {difference} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
