"""Seconds of an evaluation, next to another checkout's on the same model and the same examples.

python benchmarks/evaluation.py [detect] [captions] [--against FOLDER] [--model FOLDER] [--threads 2]

`detect` is the validation split of the recipe quickstart_detect with the loss, and again with gray images,
as every run ends; give it a trained model (`runs/quickstart_detect/model`), whose answers end where they
should. `captions` has five captions to an image, a row each, and 25 tokens to an
answer; its model is random, with the widths of PaliGemma 3B and a few layers. Checkouts take turns (A B B
A), each time in a new process that evaluates twice; the second time counts. Answers have to be equal.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent.parent
IMAGES, CAPTIONS, TOKENS = 3, 5, 25
WORDS = "a red green blue small large round square boat cat in on over with and".split()


def write_captions(folder: Path) -> Path:
    """Write images of noise, five lines of JSONL to each."""
    draw = random.Random(0)
    file = folder / "captions.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for number in range(IMAGES):
            pixels = np.random.default_rng(number).integers(0, 256, (224, 224, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            for _ in range(CAPTIONS):
                text = " ".join(draw.choices(WORDS, k=draw.randint(8, 20)))
                stream.write(
                    json.dumps({"image": f"{number}.png", "prefix": "cap en", "suffix": text}) + "\n"
                )
    return file


def make_wide_model(folder: Path, layers: int) -> Path:
    """Return a checkpoint with the widths of PaliGemma 3B and few layers."""
    import torch
    from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

    from finetune.model.load import TINY_BASE
    from finetune.model.published import published_config

    config = published_config("google/paligemma-3b-pt-224")
    assert config is not None
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = layers
    processor = PaliGemmaProcessor.from_pretrained(TINY_BASE)
    processor.image_processor.size = {"height": 224, "width": 224}
    processor.image_processor.image_seq_length = processor.image_seq_length = (
        config.text_config.num_image_tokens
    )
    config.image_token_id = processor.image_token_id
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run_child(words: Sequence[str], result: Path) -> None:
    """Evaluate in this process, each time twice, and write what it took and what was answered."""
    import finetune.assembly.evaluator
    import finetune.assembly.evidence
    from finetune.cli import main
    from finetune.evaluation.evaluate import evaluate

    measured: list[dict[str, Any]] = []

    def measure(*args: Any, **options: Any) -> Any:
        evaluate(*args, **options)
        began, used = time.perf_counter(), time.process_time()
        evaluation = evaluate(*args, **options)
        seconds, processor = time.perf_counter() - began, time.process_time() - used
        answers = [(row["id"], row["prediction"], row["confidence"]) for row in evaluation.rows]
        measured.append(
            {
                "seconds": seconds,
                "processor": processor,
                "answers": answers,
                "loss": evaluation.scores.get("loss"),
            }
        )
        return evaluation

    finetune.assembly.evaluator.evaluate = measure  # type: ignore[attr-defined]
    finetune.assembly.evidence.evaluate = measure  # type: ignore[attr-defined]
    code = main(["evaluate", *words])
    result.write_text(json.dumps(measured))
    sys.exit(code)


def measure_checkout(
    checkout: Path, words: Sequence[str], folder: Path, threads: int
) -> list[dict[str, Any]]:
    """Return what each evaluation of one process took: with the images, then with gray ones."""
    result = folder / "result.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": str(threads),
        "HF_DATASETS_CACHE": str(folder / "cache" / checkout.name),
    }
    child = [sys.executable, str(Path(__file__).resolve()), "--child", str(result), *words]
    done = subprocess.run(child, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{checkout}: {done.stderr[-2000:]}")
    measured: list[dict[str, Any]] = json.loads(result.read_text())
    return measured


def compare(name: str, words: Sequence[str], checkouts: Sequence[Path], folder: Path, threads: int) -> None:
    """Print a line for each checkout and evaluation, and the ratios, of all evaluations together too."""
    turns = [*checkouts, *reversed(checkouts)]
    measured: dict[Path, list[list[dict[str, Any]]]] = {checkout: [] for checkout in checkouts}
    for checkout in turns:
        measured[checkout].append(measure_checkout(checkout, words, folder, threads))
    parts = ("images", "gray images")[: len(measured[checkouts[0]][0])]
    together = []
    for part, title in enumerate(parts):
        times = []
        for checkout in checkouts:
            of_part = [run[part] for run in measured[checkout]]
            seconds, processor = (median(one[key] for one in of_part) for key in ("seconds", "processor"))
            times.append((seconds, processor))
            count = len(of_part[0]["answers"])
            print(
                f"{name:9} {title:12} {checkout.name:12} {count:5} examples {seconds:8.2f} s "
                f"{processor:8.2f} s of processor {count / seconds:8.1f} examples/s",
                flush=True,
            )
        if len(checkouts) > 1:
            before, after = (measured[checkout][0][part] for checkout in checkouts)
            pairs = list(zip(before["answers"], after["answers"], strict=True))
            different = sum(one[:2] != other[:2] for one, other in pairs)
            widest = max(abs(one[2] - other[2]) for one, other in pairs)
            together.append(times)
            ratios = divide(*times)
            print(
                f"{name:9} {title:12} before / after: {ratios} of processor; {different} answers differ, "
                f"confidences by {widest:.4f}, loss {before['loss']} and {after['loss']}",
                flush=True,
            )
    if len(together) > 1:
        sums = [
            [sum(values) for values in zip(*of_one, strict=True)] for of_one in zip(*together, strict=True)
        ]
        print(f"{name:9} {'together':12} before / after: {divide(*sums)} of processor", flush=True)


def divide(before: Sequence[float], after: Sequence[float]) -> str:
    """Return how many times longer the first took, by the clock and of the processor."""
    return " and ".join(f"{one / other:.2f}" for one, other in zip(before, after, strict=True))


def main() -> None:
    """Measure the workloads that are named, or both."""
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[3:], Path(sys.argv[2]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "workloads", nargs="*", choices=["detect", "captions"], default=["detect", "captions"]
    )
    parser.add_argument("--against", type=Path, help="another checkout, measured before this one")
    parser.add_argument("--model", default="tiny", help="of `detect`")
    parser.add_argument("--layers", type=int, default=4, help="of the model of `captions`")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    checkouts = [HERE] if options.against is None else [options.against.resolve(), HERE]
    half = [
        f"trainer.bf16={str(options.dtype == 'bfloat16').lower()}",
        "trainer.dataloader_num_workers=0",
        "overwrite=true",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "detect" in options.workloads:
            words = ["recipe=quickstart_detect", f"model={options.model}", "evaluation.pictures=0", *half]
            compare("detect", words, checkouts, folder, options.threads)
        if "captions" in options.workloads:
            model = make_wide_model(folder / "wide", options.layers)
            file = write_captions(folder)
            words = [
                "recipe=jsonl_qlora", f"model={model}", "peft=none", f"model.dtype={options.dtype}",
                f"dataset.train={file}", f"dataset.validation={file}", "dataset.validation_fraction=null",
                f"evaluation.max_new_tokens={TOKENS}", "evaluation.blank_images=never", *half,
            ]  # fmt: skip
            compare("captions", words, checkouts, folder, options.threads)


if __name__ == "__main__":
    main()
