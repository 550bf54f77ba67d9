"""A run that hardly learned anything, and its page on a port of this machine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import detect_example
from PIL import Image

import finetune
from finetune.web.result import DemoResult

QUESTION = "which digit is this?"


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; next to it are letters, `letter-0.png` to `letter-2.png`."""
    folder = tmp_path_factory.mktemp("demo")
    for seed in range(3):
        # Which the base finds, and so does the run.
        pixels = detect_example(np.random.default_rng(seed), 0.0, letters=True).pixels
        Image.fromarray(pixels).save(folder / f"letter-{seed}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(folder / "cache"))
        short = {"trainer.max_steps": 1, "trainer.limit": 4, "evaluation.limit": 12}
        finetune.train(recipe="quickstart", runs_dir=folder, run_name="digits", **short)
    return folder / "digits"


@pytest.fixture(scope="session")
def page(demo_run: Path) -> Iterator[DemoResult]:
    """The page of the run; uploads may have 100 kB."""
    with finetune.demo(run=demo_run, port=0, examples=3, max_upload_mb=0.1, max_images=5) as served:
        yield served
