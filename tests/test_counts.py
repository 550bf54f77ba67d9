"""The counts of `benchmarks/counts.py` are those that are stored, and as low as intended."""

import json
import runpy

import pytest

from tests.conftest import REPOSITORY


def test_a_step_executes_keeps_and_moves_what_is_stored() -> None:
    counts = runpy.run_path(str(REPOSITORY / "benchmarks/counts.py"))
    stored = json.loads(counts["STORED"].read_text())
    plain, ours = (counts["count_step"](speed) for speed in (counts["PLAIN"], counts["SpeedOptions"]()))
    assert plain._asdict() == stored["peft"]
    assert ours._asdict() == stored["ours"]
    # The last layer is computed at few positions: less than the gradient of all of them needs.
    useful = counts["useful_flops"]()
    assert 0.95 * useful <= ours.flops <= useful
    assert ours.moved < 0.75 * plain.moved
    assert ours.kept < 0.75 * plain.kept


@pytest.mark.filterwarnings("ignore")  # torch hides its compiler's own, unless they are errors
def test_compiled_layers_leave_their_graphs_nowhere() -> None:
    assert runpy.run_path(str(REPOSITORY / "benchmarks/counts.py"))["count_breaks"]() == 0
