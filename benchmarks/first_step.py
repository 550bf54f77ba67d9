"""Time and peak memory from the command to the first step of a training on many rows.

python benchmarks/first_step.py [--rows 200000] [--against FOLDER]

The rows are lines of JSONL over 500 small images, one in twenty of them for validation; the model is tiny.
Each checkout starts four times: with recipe=quickstart; on 64 rows, which is start-up; on all rows with an
empty cache; and again with the cache that this has left. `stamped.py` takes the time of each phase in the
training itself.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

IMAGES, START_UP = 500, 64
PHASES = ("config", "import", "data", "weights", "trainer", "step")
WORDS = (
    "red green blue small large round square left right upper lower old new open closed bright dark".split()
)
HERE = Path(__file__).resolve().parent.parent


class Start(NamedTuple):
    """What one start took."""

    phases: dict[str, tuple[float, float]]
    """Phase -> seconds from the command to its end, and processor seconds, also of ended processes."""
    own: float
    """Most memory of the main process, MiB, without files that are mapped: sampled, on Linux; else 0."""
    memory: float
    """The same with mapped files, which the system takes back when it needs the memory."""


def write_rows(folder: Path, name: str, count: int) -> None:
    """Write a question of about 60 characters and an answer of two words to each row."""
    draw = random.Random(name)
    with (folder / name).open("w", encoding="utf-8") as stream:
        for number in range(count):
            row = {
                "image": f"{draw.randrange(IMAGES)}.png",
                "prefix": f"answer en what is {' '.join(draw.choices(WORDS, k=6))} in {name} {number}?",
                "suffix": " ".join(draw.choices(WORDS, k=2)),
            }
            stream.write(json.dumps(row) + "\n")


def choose_words(folder: Path, prefix: str) -> list[str]:
    """Return the words of a training on the rows of a folder."""
    return [
        "recipe=jsonl_qlora", "model=tiny", "dataset.validation_fraction=null",
        *(f"dataset.{split}={folder}/{prefix}{split}.jsonl" for split in ("train", "validation")),
        "trainer.max_steps=1", "trainer.dataloader_num_workers=0",
    ]  # fmt: skip


def start(checkout: Path, folder: Path, words: list[str]) -> Start:
    """Start a training, and end it after its first step."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "HF_DATASETS_CACHE": str(folder / "cache" / checkout.name),
    }
    program = [sys.executable, str(HERE / "benchmarks/stamped.py"), str(time.time())]
    process = subprocess.Popen(
        [*program, *words, f"runs_dir={folder}/runs", "overwrite=true"],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    peak = [0.0]
    watcher = threading.Thread(target=watch_memory, args=(process.pid, peak), daemon=True)
    watcher.start()
    stamps = (line.split()[1:] for line in process.stdout if line.startswith("@ "))
    phases = {name: (float(seconds), float(processor)) for name, seconds, processor in stamps}
    watcher.join()
    # wait4 tells this child's own peak, not the largest of all children so far.
    _, _, usage = os.wait4(process.pid, 0)
    if "step" not in phases:
        sys.exit(f"the training in {checkout} ended before its first step")
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Start(phases, peak[0], memory)


def watch_memory(process: int, peak: list[float]) -> None:
    """Keep the most memory that is no mapped file, MiB, until the process ends and has none."""
    with suppress(OSError):
        while match := re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text()):
            peak[0] = max(peak[0], int(match[1]) / 2**10)
            time.sleep(0.02)


def show(name: str, kind: str, took: Start) -> None:
    """Print a line: the seconds of each phase, and those of all together."""
    before, cells = (0.0, 0.0), []
    for end in took.phases.values():
        cells.append(f"{end[0] - before[0]:6.1f} {end[1] - before[1]:5.1f}")
        before = end
    cells.append(f"{before[0]:6.1f} {before[1]:5.1f}")
    print(f"{name:10} {kind:10} {'  '.join(cells)}  {took.own:6.0f} {took.memory:6.0f}", flush=True)


def main() -> None:
    """Print a line for each start, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--against", type=Path, help="another checkout, measured before this one")
    options = parser.parse_args()
    checkouts = [HERE] if options.against is None else [options.against.resolve(), HERE]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0)
        for number in range(IMAGES):
            image = pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"{number}.png")
        for prefix, count in (("few_", START_UP), ("", options.rows)):
            write_rows(folder, f"{prefix}train.jsonl", count - count // 20)
            write_rows(folder, f"{prefix}validation.jsonl", count // 20)
        print(f"{options.rows:,} rows, {len(os.sched_getaffinity(0))} cores; seconds, processor seconds")
        phases = "".join(f"{phase:>14}" for phase in (*PHASES, "together"))
        print(f"checkout   start     {phases}   own MiB, with files")
        measured: list[dict[str, Start]] = []
        for checkout in checkouts:
            measured.append({})
            few, many = choose_words(folder, "few_"), choose_words(folder, "")
            starts = {"quickstart": ["recipe=quickstart"], "start-up": few, "cold": many, "warm": many}
            for kind, words in starts.items():
                measured[-1][kind] = start(checkout, folder, words)
                show(checkout.name, kind, measured[-1][kind])
        for kind in ("cold", "warm") if len(measured) > 1 else ():
            before, after = (
                [each[kind].phases["step"], each["start-up"].phases["step"]] for each in measured
            )
            print(
                f"{kind}: {after[0][0] / before[0][0]:.2f} of before, without start-up "
                f"{(after[0][0] - after[1][0]) / (before[0][0] - before[1][0]):.2f}, in processor time "
                f"{after[0][1] / before[0][1]:.2f}"
            )


if __name__ == "__main__":
    main()
