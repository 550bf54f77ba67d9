"""Time and peak memory from the command to the first step of a training on many rows.

python benchmarks/first_step.py [--rows 200000] [--against FOLDER]

The rows are lines of JSONL over 500 small images, one in twenty of them for validation; the model is tiny.
Each checkout starts three times: on 64 rows, which is start-up; on all rows with an empty cache; and again
with the cache that this has left.
"""

import argparse
import json
import os
import random
import re
import signal
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
WORDS = (
    "red green blue small large round square left right upper lower old new open closed bright dark".split()
)
HERE = Path(__file__).resolve().parent.parent


class Start(NamedTuple):
    """What one start took."""

    checked: float
    """Seconds until the rows are read and checked and the model is built."""
    stepped: float
    """Seconds until the first step is done."""
    processor: float
    """Seconds of processor time, those of processes that have ended before among them."""
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


def start(checkout: Path, folder: Path, prefix: str) -> Start:
    """Start a training, and end it after its first step."""
    words = [
        *(f"dataset.{split}={folder}/{prefix}{split}.jsonl" for split in ("train", "validation")),
        "dataset.validation_fraction=null", "trainer.max_steps=1", "trainer.dataloader_num_workers=0",
        f"runs_dir={folder}/runs", "overwrite=true",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "PYTHONUNBUFFERED": "1",
        "HF_DATASETS_CACHE": str(folder / "cache" / checkout.name),
    }
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune", "recipe=jsonl_qlora", "model=tiny", *words],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    peak = [0.0]
    watcher = threading.Thread(target=watch_memory, args=(process.pid, peak), daemon=True)
    watcher.start()
    seconds = {}
    for line in process.stdout:
        for mark in ("data: ", "step 1/"):
            if line.startswith(mark):
                seconds[mark] = time.perf_counter() - began
        if "step 1/" in seconds:
            os.killpg(process.pid, signal.SIGKILL)
            break
    watcher.join()
    # wait4 tells this child's own peak, not the largest of all children so far.
    _, _, usage = os.wait4(process.pid, 0)
    if "step 1/" not in seconds:
        sys.exit(f"the training in {checkout} ended before its first step")
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    processor = usage.ru_utime + usage.ru_stime
    return Start(seconds["data: "], seconds["step 1/"], processor, peak[0], memory)


def watch_memory(process: int, peak: list[float]) -> None:
    """Keep the most memory that is no mapped file, MiB, until the process ends and has none."""
    with suppress(OSError):
        while match := re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text()):
            peak[0] = max(peak[0], int(match[1]) / 2**10)
            time.sleep(0.02)


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
        print(f"{options.rows:,} rows, {len(os.sched_getaffinity(0))} cores")
        print("checkout             start       checked  first step   processor  own memory  with files")
        measured: list[dict[str, Start]] = []
        for checkout in checkouts:
            measured.append({})
            for kind, prefix in (("start-up", "few_"), ("cold", ""), ("warm", "")):
                took = measured[-1][kind] = start(checkout, folder, prefix)
                times = f"{took.checked:8.1f} s  {took.stepped:8.1f} s  {took.processor:8.1f} s"
                memory = f"{took.own:6.0f} MiB  {took.memory:6.0f} MiB"
                print(f"{checkout.name:20} {kind:10} {times}  {memory}", flush=True)
        for kind in ("cold", "warm") if len(measured) > 1 else ():
            before, after = measured
            beyond = [each[kind].stepped - each["start-up"].stepped for each in measured]
            print(
                f"{kind}: {after[kind].stepped / before[kind].stepped:.2f} of before, without start-up "
                f"{beyond[1] / beyond[0]:.2f}, in processor time "
                f"{after[kind].processor / before[kind].processor:.2f}"
            )


if __name__ == "__main__":
    main()
