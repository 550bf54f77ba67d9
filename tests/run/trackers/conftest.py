"""Trackers that write below the test's folder, and a run for them to track."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.run.folder import RunFolder
from finetune.run.results import Predictions
from finetune.run.trackers.options import TrackerConfig
from finetune.run.trackers.several import Trackers
from tests.conftest import noise_image

# trackio reads it when it is imported; its database is shared by all tests, each with its own project.
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that is ready to be trained in."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs/mine"
    root.mkdir(parents=True)
    text = "seed: 3\npeft: {r: 16}\ndataset: {train: mine.jsonl}\ntask: {prompt: 'answer <en>'}\n"
    (root / "config.yaml").write_text(text)
    environment = {"commit": "abc", "command": ["--token=hf_secret"]}
    (root / "environment.json").write_text(json.dumps(environment))
    return root


@pytest.fixture
def build(folder: Path) -> Callable[..., Trackers]:
    """Build trackers by their names."""

    def build(*names: str, **options: Any) -> Trackers:
        config = TrackerConfig(list(names), mode="offline", **options)
        return Trackers(RunFolder(folder), folder.parent, config)

    return build


@pytest.fixture
def predictions() -> Predictions:
    """Three rows: text, boxes, and what data may say."""
    boxes = [{"label": "cat", "box_xyxy": [2, 2, 12, 9]}]
    rows: list[Any] = [
        {"id": "0", "prefix": "which?", "prediction": "7", "references": ["7", "seven"], "score": 100.0},
        {
            "id": "1",
            "prefix": "detect cat",
            "prediction": "",
            "prediction_objects": boxes,
            "objects": boxes,
        },
        {
            "id": "2",
            "prefix": "|a",
            "prediction": "<b>\n**x**",
            "references": ["[y](z)"],
            "confidence": 0.5,
        },
    ]
    return Predictions(rows, lambda index: noise_image(index), 0)
