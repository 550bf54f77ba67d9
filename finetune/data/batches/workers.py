"""How many processes decode images and make batches."""

import os
from typing import NamedTuple

import torch

from finetune.data.examples.decoding import count_cores

_MOST = 8
"""Enough for a GPU that trains on 300 images a second, of which a core prepares about 150 (640 x 480)."""
_IMAGES = 256
"""A worker takes about 0.2 s to start and to end, in which a core prepares fewer images than these."""
_AHEAD = 8
"""Batches that are ready or being made."""


class Workers(NamedTuple):
    """The workers of one loader."""

    processes: int
    """0: the process that asks for batches makes them."""
    reason: str

    def describe(self) -> str:
        """Return who makes batches, and why."""
        count = f"{self.processes} data worker{'s' if self.processes > 1 else ''}"
        return f"{count if self.processes else 'the training process'} ({self.reason})"


def choose_workers(asked: int | None, images: int, *, stored: bool = False) -> Workers:
    """Choose the number of workers; they change nothing but the time.

    Args:
        asked: the user's number; None to choose one.
        images: that this process needs.
        stored: whether all of them are on disk as pixels or features, so that none is decoded.
    """
    if asked is not None:
        return Workers(asked, "trainer.dataloader_num_workers")
    if stored and not torch.cuda.is_available():
        # Next to a GPU they are read while it computes.
        return Workers(0, "all images are stored: reading them is faster than a worker's sending them")
    cores, processes = count_cores(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # One core for the process itself, which on a GPU hardly needs it.
    spare = min(max(cores // processes - 1, 1 if torch.cuda.is_available() else 0), _MOST)
    useful = images // _IMAGES
    if useful < spare:
        return Workers(useful, f"for {images:,} images, more would take longer to start than they save")
    shared = "" if processes == 1 else f" for {processes} processes"
    return Workers(spare, f"this machine has {cores} cores{shared}")


def choose_prefetch(asked: int | None, workers: int) -> int | None:
    """Choose how many batches each worker prepares in advance, so that a slow one delays no step."""
    if not workers:
        return None
    return max(2, _AHEAD // workers) if asked is None else asked
