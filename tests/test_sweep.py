"""A sweep's end: its table, the best run's commands, and what a second start does."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]

SHORT = ("-m", "recipe=quickstart", "trainer.max_steps=1", "trainer.global_batch_size=4")
SMALL = ("evaluation.limit=4", "evaluation.loss=false")


def test_a_sweep_ends_with_its_table_and_is_extended_by_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = command(*SHORT, *SMALL, "peft.r=2,8")
    assert code == 0, err
    table = out[out.rindex("run  ") :]
    assert re.search(r"^0 .* 2 .*\n1 .* 8 ", table, re.MULTILINE)
    assert re.search(r"python -m finetune evaluate run=runs/quickstart_sweep/[01]\n", table)
    assert re.search(
        r"python -m finetune train recipe=.* peft\.r=[28] .*run_name=quickstart_sweep_best\n", table
    )
    folder = tmp_path / "runs/quickstart_sweep"
    assert (folder / "compare.html").is_file()
    before = {number: (folder / number / "metrics.json").stat().st_mtime_ns for number in "01"}

    code, out, err = command(*SHORT, *SMALL, "peft.r=2,4,8")
    assert code == 0, err
    assert "run 0 of the sweep's 3 (peft.r=2)\nskipped: runs/quickstart_sweep/0 has its result" in out
    assert "run 1 of the sweep's 3 (peft.r=4) in runs/quickstart_sweep/2\n" in out
    assert "run 2 of the sweep's 3 (peft.r=8) in runs/quickstart_sweep/1\nskipped: " in out
    assert {number: (folder / number / "metrics.json").stat().st_mtime_ns for number in "01"} == before
    ranks = [
        json.loads((folder / number / "adapter/adapter_config.json").read_text())["r"] for number in "012"
    ]
    assert ranks == [2, 8, 4]
    alone = json.loads((folder / "2/environment.json").read_text())["command"]
    assert alone[-2:] == ["peft.r=4", "run_name=quickstart_sweep/2"]
    assert re.search(r"^2 .* 4 ", out[out.rindex("run  ") :], re.MULTILINE)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"0", "1", "2"}


def test_a_run_that_failed_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*SHORT, *SMALL, "metric=pair_accuracy,exact_match")
    assert code == 2
    assert "0: no scores. Row `digit-" in out
    assert "a pair is two rows" in out
    assert err.endswith("error: 1 of 2 runs of the sweep failed: 0.\n")
