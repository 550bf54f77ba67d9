"""How many examples a second the loader makes, without a model: bytes and floats, with 0, 1 and 2 workers.

    python benchmarks/loader.py
    python benchmarks/loader.py --size 1700 2200 --sides 448 896

JPEG files, smooth noise as compressible as photographs, become batches for 224 and 448 pixels. Bytes are
what `trainer.speed.uint8_pixels` sends to the device, floats what is sent without it. `pixels` and
`features` are with full caches of these (`trainer.speed.pixel_cache`, `feature_cache`), so that nothing is
decoded. They are made in turns (A B C D D C B A). The scaling that bytes still need is timed on one core,
though in training the model's device does it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers import PaliGemmaProcessor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from finetune.data.batches.collator import Collator
from finetune.data.batches.pixels import PixelBuilder
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.stored.store import ImageStore
from finetune.model.features import scale_pixels
from finetune.model.load import load_processor
from finetune.tasks.text import TextTask

WIDTH, PATCH = 1152, 14
"""Of the published checkpoints' vision tower."""


def write_images(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Write JPEG files of smooth noise; the size is width and height in pixels."""
    paths = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        fine = np.random.default_rng(number).normal(0, 8, (size[1], size[0], 3))
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32)
        path = folder / f"{number}.jpg"
        Image.fromarray(np.clip(smooth + fine, 0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path.resolve()))
    return paths


def build_examples(paths: list[str]) -> ExampleDataset:
    """Return one question about each image."""
    columns = {
        "id": [str(number) for number in range(len(paths))],
        "group": [None] * len(paths),
        "image": paths,
        "answers": [["yes"]] * len(paths),
    }
    return ExampleDataset(
        Dataset.from_dict(columns), TextTask("answer en what is shown?", "answers"), "train"
    )


def store_features(examples: ExampleDataset, folder: Path, side: int) -> ExampleDataset:
    """Return the examples with features for each of their images."""
    tokens = (side // PATCH) ** 2
    store = ImageStore(folder / "features" / str(side), {}, (tokens, WIDTH), torch.bfloat16)
    with_store = ExampleDataset(examples.rows, examples.task, examples.split, store=store)
    for index in range(len(examples)):
        [text] = with_store[index].keys
        key, width, height = text.split()
        store.write(key, torch.randn(tokens, WIDTH), (int(width), int(height)))
    return with_store


def store_pixels(examples: ExampleDataset, folder: Path, processor: PaliGemmaProcessor) -> ExampleDataset:
    """Return the examples with the resized pixels of each of their images."""
    builder = PixelBuilder(processor.image_processor, "bicubic")
    shape = (3, *builder.size)
    store = ImageStore(folder / "pixels" / str(shape[1]), {}, shape, torch.uint8)
    builder.store = store
    with_store = ExampleDataset(examples.rows, examples.task, examples.split, store=store)
    for index in range(len(examples)):
        builder.build([with_store[index]])
    return with_store


def measure(examples: ExampleDataset, collator: Collator, batch: int, workers: int) -> tuple[float, float]:
    """Return examples a second after the first batch, and the MiB of a batch."""
    loader = DataLoader(
        examples,
        batch_size=batch,
        num_workers=workers,
        collate_fn=collator,
        drop_last=True,
        worker_init_fn=one_thread,
    )
    batches = iter(loader)
    first = next(batches)
    began, count = time.perf_counter(), sum(1 for _ in batches)
    weight = sum(value.nbytes for value in first.values() if isinstance(value, torch.Tensor))
    return count * batch / (time.perf_counter() - began), weight / 2**20


def one_thread(_: int) -> None:
    """Leave the other cores to the other workers."""
    torch.set_num_threads(1)


def measure_scaling(collator: Collator, examples: ExampleDataset, batch: int) -> float:
    """Return the milliseconds an image that the scaling of bytes takes here."""
    pixels = collator.build_pixels([examples[index] for index in range(batch)])
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        scale_pixels(pixels["pixel_values"], pixels.get("pixel_table"))
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds) / batch


def load_processor_for(side: int) -> PaliGemmaProcessor:
    """Return the shipped processor for images of another size."""
    processor = load_processor("tiny")
    processor.image_processor.size = {"height": side, "width": side}
    return processor


def main() -> None:
    """Print a line of JSON for each turn, and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", nargs="+", type=int, default=[224, 448])
    parser.add_argument("--size", nargs=2, type=int, default=[640, 480])
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = ["| side | workers | floats | bytes | pixels | features | MiB a batch | scaling, ms an image |"]
    table.append("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        examples = build_examples(write_images(Path(folder), given.images, tuple(given.size)))
        for side in given.sides:
            processor = load_processor_for(side)
            as_bytes = Collator(processor)
            pixels = store_pixels(examples, Path(folder), processor)
            features = store_features(examples, Path(folder), side)
            runs = {
                "floats": (examples, Collator(processor, uint8_pixels=False)),
                "bytes": (examples, as_bytes),
                "pixels": (pixels, as_bytes),
                "features": (features, as_bytes),
            }
            scaling = measure_scaling(as_bytes, examples, given.batch)
            for workers in given.workers:
                rates: dict[str, list[float]] = {name: [] for name in runs}
                weights = {}
                for name in [*runs, *reversed(runs)]:
                    rate, weights[name] = measure(*runs[name], given.batch, workers)
                    rates[name].append(rate)
                    line = {"side": side, "workers": workers, "form": name, "examples a second": rate}
                    print(json.dumps(line), file=sys.stderr, flush=True)
                cells = " | ".join(f"{statistics.mean(rates[name]):.0f}" for name in runs)
                weight = " / ".join(f"{weights[name]:.1f}" for name in runs)
                table.append(f"| {side} | {workers} | {cells} | {weight} | {scaling:.2f} |")
    print("\n".join(table))


if __name__ == "__main__":
    main()
