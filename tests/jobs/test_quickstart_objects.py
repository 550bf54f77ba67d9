"""The small run that finds and outlines digits, cut short: that it learns, not how well."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str, str]]


def test_the_tiny_base_learns_to_outline_digits_with_a_codec_of_its_own(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    code, _, err = command("recipe=quickstart_segment", "trainer.num_train_epochs=1")
    assert code == 0, err
    final = json.loads((tmp_path / "runs/quickstart_segment/metrics.json").read_text())["final"]
    assert final["mean_iou"] > 30
    assert final["n"] == 200
    assert len(list((tmp_path / "cache").glob("mask_vae-*.npz"))) == 1
    assert len(list((tmp_path / "runs/quickstart_segment/pictures").iterdir())) == 10
