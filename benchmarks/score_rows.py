"""Time and peak memory of `score` over many rows, each metric in a process of its own.

python benchmarks/score_rows.py [--rows 1000000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METRICS = ("exact_match", "vqa_accuracy", "anls", "relaxed_accuracy")


def write_rows(file: Path, count: int) -> None:
    """Write rows of VQAv2's shape: ten references, three groups."""
    groups = ("yes/no", "number", "other")
    with file.open("w", encoding="utf-8") as stream:
        for number in range(count):
            answer = str(number % 97)
            row = {
                "id": str(number),
                "group": groups[number % 3],
                "prefix": "answer en how many people are there in this picture?",
                "prediction": answer if number % 4 else "two people",
                "references": [answer] * 7 + ["two", "a few", "3"],
                "confidence": 0.9,
            }
            stream.write(json.dumps(row) + "\n")


def main() -> None:
    """Print one line for each metric: seconds, rows a second, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.jsonl"
        write_rows(file, count)
        print(f"{count:,} rows, {file.stat().st_size / 2**20:.0f} MiB")
        for metric in METRICS:
            words = [sys.executable, "-m", "finetune", "score", f"metric={metric}", f"predictions={file}"]
            began = time.perf_counter()
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
            # wait4 tells this child's own peak, not the largest of all children so far.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            if status != 0:
                sys.exit(f"score metric={metric} failed")
            peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            print(f"{metric:18} {seconds:6.1f} s  {count / seconds:9,.0f} rows/s  {peak:6.0f} MiB at most")


if __name__ == "__main__":
    main()
