"""Runs made by hand: a folder with settings, scores and rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.runs import FinishedRun, read_run


def rows_of(answers: list[str], truth: str = "7") -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "prefix": "which?",
            "references": [truth],
            "prediction": answer,
            "score": 100.0 * (answer == truth),
        }
        for number, answer in enumerate(answers)
    ]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., FinishedRun]:
    """Write a run's folder and read it."""

    def make(name: str, settings: dict[str, Any], scores: dict[str, Any], **metrics: Any) -> FinishedRun:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"final": scores, **metrics}))
        return read_run(folder, name, settings)

    return make
