"""Stored pixels are those that would be resized again, bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PaliGemmaProcessor

from finetune.assembly.data import Data
from finetune.assembly.image_cache import build_image_cache
from finetune.assembly.room import ImageCache
from finetune.config.compose import compose
from finetune.data.batches.collator import Collator
from finetune.data.examples.augment import Augmentation
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.options import AugmentationConfig
from finetune.data.images import Picture
from finetune.errors import UserError
from finetune.model.features import spread_pixels
from finetune.tasks.text import TextTask
from tests.assembly.conftest import data_of
from tests.conftest import noise_image

Build = Callable[..., Any]
Command = Callable[..., tuple[int, str, str]]
ON = ("trainer.speed.pixel_cache=true", "trainer.bf16=false")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    """Large images, two of them with the same content, two rows with two."""
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for number, path in enumerate(paths):
        noise_image(number % 3, 90 + 7 * (number % 3), 81).save(path)
    shown = [[paths[0]], [paths[1], paths[2]], [paths[3]], [paths[0], paths[3]]]
    ids = list("abcd")
    return Dataset.from_dict({"id": ids, "group": [None] * 4, "images": shown, "answers": [["x"]] * 4})


def decide(data: Data, processor: PaliGemmaProcessor, model: torch.nn.Module, *words: str) -> ImageCache:
    return build_image_cache(compose(["recipe=quickstart", *ON, *words]), model, processor, data)


@pytest.mark.parametrize("resize", ["bicubic", "bilinear", "paper"])
def test_stored_pixels_are_those_that_are_resized(
    random_model: Build,
    processor: PaliGemmaProcessor,
    rows: Dataset,
    resize: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    antialias = {"": False} if resize == "paper" else None
    plain = ExampleDataset(rows, TextTask("{answers}", "answers"), "train", antialias=antialias)
    expected = Collator(processor, resize=resize)([plain[index] for index in range(4)])
    collator = Collator(processor, resize=resize)
    decided = decide(data_of(plain, collator), processor, random_model(), f"image.resize={resize}")
    assert [one.is_on for one in decided.techniques] == [False, True]
    assert "(8 images x 3 x 56 x 56 bytes), of which about" in decided.techniques[1].detail
    examples = decided.attach(plain)
    for turn in range(2):
        if turn:
            monkeypatch.setattr(Picture, "load", lambda *_: pytest.fail("decoded"))
        given = [examples[index] for index in range(4)]
        assert all(one.stored for one in given) == bool(turn)
        batch = collator(given)
        assert "image_keys" not in batch
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(spread_pixels(batch), spread_pixels(expected))
        assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert sum(file.stat().st_size for file in cache.rglob("*.records")) == 3 * 3 * 56 * 56
    again = decide(data_of(plain, collator), processor, random_model(), f"image.resize={resize}")
    assert again.is_full
    other = decide(data_of(plain, collator), processor, random_model(), "image.resize=bilinear")
    assert other.is_full == (resize == "bilinear")


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        pytest.param("augments", [], r"augmentation changes the images", id="augmentation"),
        pytest.param("floats", [], r"it keeps bytes, and pixels are floats here", id="floats"),
    ],
)
def test_pixels_that_are_not_always_the_same_bytes_are_refused(
    random_model: Build,
    processor: PaliGemmaProcessor,
    rows: Dataset,
    change: str,
    words: list[str],
    why: str,
) -> None:
    examples = ExampleDataset(rows, TextTask("{answers}", "answers"), "train")
    if change == "augments":
        examples = replace(examples, augment=Augmentation(AugmentationConfig(flip=0.5)))
    data = data_of(examples, Collator(processor, uint8_pixels=change != "floats"))
    with pytest.raises(UserError, match=f"trainer.speed.pixel_cache=true cannot apply: {why}"):
        decide(data, processor, random_model(), *words)
    off = decide(data, processor, random_model(), "trainer.speed.pixel_cache=false")
    assert (off.store, off.techniques[1].detail) == (None, "by trainer.speed.pixel_cache")


def test_pixels_are_not_kept_where_features_are(
    random_model: Build, processor: PaliGemmaProcessor, rows: Dataset
) -> None:
    model = random_model()
    model.model.vision_tower.requires_grad_(False)
    data = data_of(ExampleDataset(rows, TextTask("{answers}", "answers"), "train"), Collator(processor))
    decided = decide(data, processor, model, "trainer.speed.feature_cache=true")
    assert [one.is_on for one in decided.techniques] == [True, False]
    assert data.collator.pixels.store is None


def test_a_run_whose_tower_learns_trains_as_without(cache: Path, command: Command, tmp_path: Path) -> None:
    def train(name: str, *words: str) -> tuple[list[float], str]:
        code, out, err = command(
            "recipe=quickstart",
            "peft=none",
            "freeze=none",
            "trainer.bf16=false",
            "trainer.limit=8",
            "trainer.global_batch_size=4",
            "trainer.max_steps=4",
            "trainer.logging_steps=1",
            "evaluation.limit=4",
            f"run_name={name}",
            *words,
        )
        assert code == 0, err
        history = (tmp_path / f"runs/{name}/history.jsonl").read_text()
        lines = [json.loads(line) for line in history.splitlines()]
        return [line["loss"] for line in lines if "loss" in line], out

    expected, out = train("plain")
    assert not cache.exists()
    losses, out = train("stored", "trainer.speed.pixel_cache=true", "trainer.dataloader_num_workers=1")
    assert "pixel_cache       on   at most" in out
    assert losses == expected
    losses, out = train("again", "trainer.speed.pixel_cache=true", "trainer.dataloader_num_workers=null")
    assert "of which none are missing, in" in out
    assert "batches are made by the training process (all images are stored" in out
    assert losses == expected
