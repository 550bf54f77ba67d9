"""Data workers end with their process, whatever they wait for."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

STUCK = """
import time
from torch.utils.data import DataLoader
from finetune import signals

class Stuck:
    def __len__(self):
        return 4
    def __getitem__(self, index):
        time.sleep(600 if index else 0)
        return index

loader = DataLoader(Stuck(), batch_size=1, num_workers=1, worker_init_fn=signals.ignore_in_worker)
with signals.held():
    batches = iter(loader)
next(batches)
"""


@pytest.mark.slow
def test_a_worker_that_waits_forever_does_not_keep_the_command_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], cwd=REPOSITORY, timeout=90, check=False)
    assert done.returncode == 0
