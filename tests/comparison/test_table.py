"""The table of runs on the terminal and as CSV."""

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from finetune.comparison.runs import FinishedRun, find_differences, flatten
from finetune.comparison.table import Comparison, compare, write_csv, write_terminal

Make = Callable[..., FinishedRun]


@pytest.fixture
def comparison(make: Make) -> Comparison:
    runs = [
        make(
            name,
            {"peft": {"r": rank}, "seed": 0, "task": {"prompt": prompt}},
            {"exact_match": score, "loss": 1.5, "n": 20, "by_group": {}},
            train={"seconds": 60.0 * rank, "peak_memory_gib": 1.5},
            parameters={"vision": {"learning": 0}, "language": {"learning": 1000 * rank}},
            intervals={"exact_match": [score - 5, score + 5, 1000]},
        )
        for name, rank, score, prompt in (
            ("a", 2, 50.0, "x"),
            ("b", 8, 60.0, "y" * 60),
            ("c", 4, 40.0, "\x1b[2J"),
        )
    ]
    return compare(
        runs, {"exact_match": True, "loss": False}, "exact_match", ["of one seed."], {"3": "Killed."}
    )


def test_the_terminal_has_what_differs_scores_with_intervals_and_cost(comparison: Comparison) -> None:
    lines = write_terminal(comparison, 400).splitlines()
    assert lines[0].split("  ")[0] == "run"
    head = [name.strip() for name in lines[0].split("  ") if name.strip()]
    assert head == [
        "run", "peft.r", "task.prompt", "exact_match", "loss", "seconds", "peak memory, GiB",
        "learning parameters",
    ]  # fmt: skip
    cells = [cell.strip() for cell in lines[2].split("  ") if cell.strip()]
    assert cells == ["b *", "8", f"{'y' * 29}...", "60 [55, 65]", "1.5", "480", "1.5", "8,000"]
    assert "\x1b" not in "".join(lines)
    assert lines[4:] == ["3: no scores. Killed.", "* best by exact_match", "note: of one seed."]


def test_a_table_wider_than_the_terminal_is_turned(comparison: Comparison) -> None:
    lines = write_terminal(comparison, 60).splitlines()
    assert lines[0].split() == ["run", "a", "b", "*", "c"]
    assert lines[1].split() == ["peft.r", "2", "8", "4"]


def test_the_csv_has_every_score_as_a_number(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(write_csv(comparison))))
    assert [row["run"] for row in rows] == ["a", "b", "c"]
    assert [float(row["exact_match_low"]) for row in rows] == [45, 55, 35]
    assert rows[1]["task.prompt"] == "y" * 60
    assert rows[2]["learning parameters"] == "4000.0"


@pytest.mark.parametrize(
    ("direction", "losses", "best"),
    [
        pytest.param(True, (1.0, 2.0, 3.0), "b", id="higher"),
        pytest.param(False, (1.0, 2.0, 3.0), "c", id="lower"),
    ],
)
def test_the_best_follows_the_direction(
    comparison: Comparison, direction: bool, losses: tuple[float, ...], best: str
) -> None:
    found = compare(comparison.runs, {"exact_match": direction}, "exact_match", [], {})
    assert found.best is not None
    assert found.best.name == best


def test_the_loss_decides_between_equal_scores(make: Make) -> None:
    runs = [make(name, {}, {"anls": 50.0, "loss": loss}) for name, loss in (("a", 2.0), ("b", 1.0))]
    found = compare(runs, {"anls": True, "loss": False}, "anls", [], {})
    assert found.best is runs[1]
    assert "2 runs have the same, the loss decides" in write_terminal(found, 100)


def test_settings_that_change_nothing_are_not_compared() -> None:
    def settings(**changed: Any) -> dict[str, Any]:
        return {"defaults": [{"override /metric": "anls"}, {"override /model": "tiny"}], **changed}

    def run(name: str, **changed: Any) -> FinishedRun:
        return FinishedRun(name, None, flatten(settings(**changed)), {}, {}, {}, None)  # type: ignore[arg-type]

    same = run("a", runs_dir="x", tracker={"names": ["wandb"]}, dataset={"columns": {}})
    other = run("b", runs_dir="y", tracker={"names": []}, dataset={"columns": None})
    assert find_differences([same, other]) == []
    assert find_differences([same, run("c", peft={"r": 2, "modules": ["q"]})]) == ["peft.r", "peft.modules"]
