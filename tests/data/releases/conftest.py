"""Small releases in the official layout, read as the command line names them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.assembly.sources import build_task, load_splits
from finetune.config.compose import compose
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.rows import Splits


def write_tree(root: Path, files: dict[str, Any]) -> None:
    """Write JSON files under one folder, and pictures where the content is null."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (4, 4)).save(file)
        else:
            file.write_text(json.dumps(content))


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write a tree under the test's folder, and return that."""

    def write(files: dict[str, Any]) -> Path:
        write_tree(tmp_path, files)
        return tmp_path

    return write


@pytest.fixture
def load_choice() -> Callable[..., tuple[Splits, ExampleDataset]]:
    """Load `dataset=NAME task=NAME dataset.root=FOLDER` and further words.

    Returns both splits, and the examples of the training split, or where that is empty of the other.
    """

    def load(dataset: str, task: str, root: Path, *words: str) -> tuple[Splits, ExampleDataset]:
        config = compose([f"dataset={dataset}", f"task={task}", f"dataset.root={root}", *words])
        splits = load_splits(config, training=config.dataset.train is not None)
        rows = splits.train if len(splits.train) else splits.validation
        return splits, ExampleDataset(rows, build_task(config, splits), "train")

    return load
