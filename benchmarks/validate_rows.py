"""Rate of `preview validate=true` on rows with an image each, and the processor time beside the seconds.

python benchmarks/validate_rows.py [--rows 50000] [--cores 1]

Each image is another one: JPEG, 320 x 240. One row in ten is for validation. Two rows have a fault, one
an image cut short, one an empty answer, which must be found.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent.parent
CUT, EMPTY = 7, 19


def write_rows(folder: Path, count: int) -> None:
    """Write the images, and a question and an answer to each."""
    draw = np.random.default_rng(0)
    streams = {name: (folder / f"{name}.jsonl").open("w") for name in ("train", "validation")}
    for number in range(count):
        cells = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        cells.resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=85)
        row = {"image": f"{number}.jpg", "prefix": "answer en what is it?", "suffix": f"thing {number}"}
        if number == EMPTY:
            row["suffix"] = " "
        streams["train" if number % 10 else "validation"].write(json.dumps(row) + "\n")
    for stream in streams.values():
        stream.close()
    content = (folder / f"{CUT}.jpg").read_bytes()
    (folder / f"{CUT}.jpg").write_bytes(content[: len(content) // 2])


def measure(folder: Path, cores: int | None) -> None:
    """Run the command on some of the cores, and print its last lines with the time it took."""
    words = [
        "preview", "recipe=jsonl_qlora", "model=tiny", "validate=true", "dataset.validation_fraction=null",
        *(f"dataset.{name}={folder}/{name}.jsonl" for name in ("train", "validation")),
        f"out={folder}/preview",
    ]  # fmt: skip
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)}
    environment |= {"OMP_NUM_THREADS": "1"}
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *words],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(done.stdout[-1500:], done.stderr[-1500:], sep="")
    assert done.returncode == 1, "the two faults are found"
    assert "2 faults" in done.stdout
    used = len(os.sched_getaffinity(0))
    print(f"{used} cores: {seconds:.1f} s with start-up, {processor:.1f} s of processors")


def main() -> None:
    """Read the arguments, write the rows and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--cores", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, arguments.rows)
        measure(folder, arguments.cores)


if __name__ == "__main__":
    main()
