"""Small real things that many tests share: processor, random models, pictures, the command line."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from architecture import build_tiny_config
from PIL import Image
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.cli import main, quiet_libraries
from finetune.example import Batch, Example, Prompts
from finetune.model.features import spread_pixels
from finetune.model.load import load_processor

if TYPE_CHECKING:
    from tests.hub.client import ConnectedHub

REPOSITORY = Path(__file__).resolve().parent.parent

quiet_libraries()


@pytest.fixture(scope="session")
def processor() -> PaliGemmaProcessor:
    return load_processor("tiny")


@pytest.fixture(scope="session")
def random_model(
    processor: PaliGemmaProcessor,
) -> Callable[..., PaliGemmaForConditionalGeneration]:
    """Build a PaliGemma 1 ("gemma") or 2 ("gemma2") with random float32 weights, the same each time."""

    def build(text: str = "gemma", **sizes: int) -> PaliGemmaForConditionalGeneration:
        torch.manual_seed(0)
        config = build_tiny_config(text, tokenizer=processor.tokenizer, **sizes)  # type: ignore[arg-type]
        config.text_config.final_logit_softcapping = None
        config.text_config._attn_implementation = "eager" if text == "gemma2" else "sdpa"
        return PaliGemmaForConditionalGeneration(config).float()

    return build


def plain_inputs(batch: Prompts) -> dict[str, torch.Tensor]:
    """What transformers' own PaliGemma reads of a batch."""
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "token_type_ids": batch["token_type_ids"],
        "pixel_values": spread_pixels(batch),
    }


def labelled_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """What a PaliGemma's own loss is computed from."""
    return {**plain_inputs(batch), "labels": batch["labels"]}


def noise_image(seed: int, width: int = 20, height: int = 14) -> Image.Image:
    """A picture that no two seeds share."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def break_inside(file: Path) -> None:
    """Damage an image in its middle: its header and its end are whole, so that only decoding finds it."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    file.write_bytes(content)


@pytest.fixture
def make_example() -> Callable[..., Example]:
    def make(
        suffixes: str | tuple[str, ...] = "a red circle",
        prefix: str = "caption en",
        id: str = "one",
        epoch: int = 0,
        seed: int = 0,
    ) -> Example:
        suffixes = (suffixes,) if isinstance(suffixes, str) else suffixes
        return Example(id, (noise_image(seed),), prefix, suffixes, epoch=epoch)

    return make


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m finetune` as a user would, in an empty folder."""

    def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "finetune", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["ConnectedHub"]:
    """A Hub on loopback, which the Hub's client of this process uses; `hub.env` is for others."""
    from tests.hub.client import ConnectedHub  # imports `datasets`, which takes a second

    with ConnectedHub(tmp_path / "hub-home") as server:
        server.connect(monkeypatch)
        yield server


@pytest.fixture
def parity_data() -> Path:
    """Other people's data, for comparison with their numbers; no part of the project."""
    folder = Path(os.environ.get("FINETUNE_PARITY_DATA", REPOSITORY.parent / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no parity data in {folder}; FINETUNE_PARITY_DATA may name another place")
    return folder


@pytest.fixture
def reported() -> Iterator[Callable[[], str]]:
    """Read the lines that the package has logged, wherever its logger sends them."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logger = logging.getLogger("finetune")
    logger.addHandler(handler)
    yield lines.getvalue
    logger.removeHandler(handler)
