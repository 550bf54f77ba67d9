"""Where files go: free disk, caches and how to clear them, the Hub's token."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, get_token

from finetune.data.cache import find_cache_dir
from finetune.doctor.finding import Finding, note, ok, problem

_LITTLE = 2
"""GiB: less than the checkpoints of a LoRA run and its rows need."""

_BASE = 7
"""GiB of the smallest published checkpoint, downloaded once."""


def check_storage(runs_dir: Path) -> Iterator[Finding]:
    """Check the Hub's token and the folders that a run writes to.

    Args:
        runs_dir: folder of the runs.
    """
    if get_token():
        yield ok("hub token", "present")
    else:
        yield note(
            "hub token",
            "absent: Google's checkpoints are gated",
            "accept the licence on the checkpoint's page, then `hf auth login`, or set HF_TOKEN",
        )
    yield check_disk("disk for runs", runs_dir, _LITTLE, "runs_dir=FOLDER on another disk")
    hub = Path(constants.HF_HUB_CACHE)
    yield check_disk(
        "disk for checkpoints", hub, _BASE, "set HF_HOME to another disk; model=tiny needs none"
    )
    rows = find_cache_dir()
    yield check_disk("disk for rows", rows, _LITTLE, "set HF_DATASETS_CACHE to another disk")
    size = sum(file.stat().st_size for file in rows.rglob("*") if file.is_file()) if rows.is_dir() else 0
    yield ok("cache of rows", f"{size / 2**20:.1f} MiB in {rows}; to clear it, delete that folder")


def check_disk(subject: str, folder: Path, needed: float, remedy: str) -> Finding:
    """Return the free space where a folder is, or will be.

    Args:
        subject: of the finding.
        folder: may not exist yet.
        needed: GiB below which there is a problem.
        remedy: what to do then.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    text = f"{free:.1f} GiB free for {folder}"
    return ok(subject, text) if free >= needed else problem(subject, f"{text}: too little", remedy)
