"""The processes that check the rows of a large split end with the command."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

WAITS = """
import os, sys, time
from pathlib import Path
from datasets import Dataset
from finetune.data.batches.collator import Collator
from finetune.data.examples import survey
from finetune.data.examples.dataset import ExampleDataset
from finetune.model.load import load_processor
from finetune.tasks.text import TextTask

class Waits(TextTask):
    def measure_text(self, row):
        Path(sys.argv[1], str(os.getpid())).touch()
        time.sleep(60)

survey._ROWS_A_PROCESS = 1
os.sched_getaffinity = lambda _: {0, 1}
rows = [{"id": str(n), "group": None, "image": "x", "answers": ["a"]} for n in range(2000)]
examples = ExampleDataset(Dataset.from_list(rows), Waits("x", "answers"), "train")
survey.survey_rows(examples, Collator(load_processor("tiny")))
"""


def is_running(process: int) -> bool:
    """Whether a process has not ended; one that waits to be reaped has."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not signal the death of a parent")
def test_no_worker_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path)], env=environment)
    try:
        started = time.monotonic()
        while len(workers := [int(file.name) for file in tmp_path.iterdir()]) < 2:
            assert parent.poll() is None
            assert time.monotonic() - started < 120
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    assert parent.pid not in workers
    ended = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < ended:
        time.sleep(0.05)
    left = [worker for worker in workers if is_running(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left
