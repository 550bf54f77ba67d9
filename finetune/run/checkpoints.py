"""Complete checkpoints: sealed with sizes and digests when written, and checked before they are read.

A checkpoint counts once it has its file `complete`. This file is written last, after all others have
reached the disk, and has their sizes and digests: a flipped bit, or a file that is cut, missing or from
another step is detected before anything is loaded.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from finetune.errors import UserError
from finetune.run.files import CHECKPOINT_FILES, flush, is_written, write_json

COMPLETE = "complete"
STATE = "trainer_state.json"

_CHUNK = 1 << 24


class Checkpoint(NamedTuple):
    """A folder `checkpoint-<step>`."""

    step: int
    folder: Path

    @property
    def is_sealed(self) -> bool:
        """Whether it was written completely; without a seal, the process was killed before."""
        return (self.folder / COMPLETE).is_file()


class ResumePoint(NamedTuple):
    """Where a run continues, and the damage of later checkpoints."""

    checkpoint: Checkpoint | None
    damage: list[str]


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints in a folder by step, ignoring other names."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    return sorted(
        Checkpoint(int(step), path)
        for path, step in steps.items()
        if step.isascii() and step.isdigit() and path.is_dir()
    )


def seal(folder: Path) -> None:
    """Flush a checkpoint's files to the disk, and record their sizes and digests."""
    # Not a rename from a temporary name: transformers writes the folder's final path into its state.
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != COMPLETE)
    for path in files:
        flush(path)
    flush(folder)
    write_json(
        folder / COMPLETE,
        {path.name: {"size": path.stat().st_size, "sha256": _digest(path)} for path in files},
    )
    flush(folder.parent)


def find_damage(checkpoint: Checkpoint) -> str | None:
    """Return the damage of a sealed checkpoint; None if it is as it was written."""
    try:
        sealed = json.loads((checkpoint.folder / COMPLETE).read_text(encoding="utf-8"))
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in sealed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its file `{COMPLETE}` cannot be read"
    if STATE not in expected:
        return f"its file `{COMPLETE}` lacks {STATE}"
    for name, (size, digest) in expected.items():
        path = checkpoint.folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, but {size:,} were written"
        if _digest(path) != digest:
            return f"{name} is not what was written"
    step = read_state(checkpoint).get("global_step")
    return None if step == checkpoint.step else f"{STATE} is of step {step}"


def read_state(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the trainer's state of a checkpoint."""
    state: dict[str, object] = json.loads((checkpoint.folder / STATE).read_text(encoding="utf-8"))
    return state


def find_resume_point(folder: Path, *, with_best: bool = False) -> ResumePoint:
    """Return the newest undamaged checkpoint.

    Args:
        folder: folder of the checkpoints.
        with_best: the best checkpoint so far must be undamaged too, because it may become the result.

    Raises:
        UserError: every checkpoint is damaged.
    """
    sealed = [checkpoint for checkpoint in list_checkpoints(folder) if checkpoint.is_sealed]
    damage: list[str] = []
    for checkpoint in reversed(sealed):
        problem = find_damage(checkpoint)
        if problem is None and with_best:
            problem = _find_damage_of_best(checkpoint, sealed)
        if problem is None:
            return ResumePoint(checkpoint, damage)
        damage.append(f"{checkpoint.folder.name} is damaged: {problem}")
    if damage:
        raise UserError(
            f"No checkpoint in {folder} can be resumed from. {'. '.join(damage)}. Restore the files, "
            "choose another run_name=, or start again with overwrite=true."
        )
    return ResumePoint(None, damage)


def _find_damage_of_best(checkpoint: Checkpoint, sealed: list[Checkpoint]) -> str | None:
    step = read_state(checkpoint).get("best_global_step")
    if step is None or step == checkpoint.step:
        return None
    best = next((other for other in sealed if other.step == step), None)
    problem = "is missing" if best is None else find_damage(best)
    return f"the best one so far, checkpoint-{step}, {problem}" if problem else None


def digest_weights(folder: Path) -> dict[str, str]:
    """Return file name -> digest for the weights in a result's folder."""
    return {path.name: _digest(path) for path in sorted(folder.glob("*.safetensors"))}


def check_weights(folder: Path, digests: dict[str, str]) -> None:
    """Check that a result's weights are those that the run wrote.

    Args:
        folder: folder of the result.
        digests: result of `digest_weights` when it was written.

    Raises:
        UserError: names the first file that differs.
    """
    now = digest_weights(folder)
    for name in sorted(digests.keys() | now.keys()):
        if digests.get(name) != now.get(name):
            what = "is missing" if name not in now else "is not what the run wrote"
            raise UserError(
                f"{folder / name} {what}. Restore it, or train again. To use it as it is: adapter={folder} "
                "or model= with that folder, without run=."
            )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def rotate(folder: Path, keep: int | None, best: int | None) -> None:
    """Delete the oldest checkpoints, but not the newest or the best one.

    Args:
        folder: folder of the checkpoints in a run's folder.
        keep: number of checkpoints to keep; None for all.
        best: step of the best one.
    """
    checkpoints = list_checkpoints(folder)
    protected = {checkpoint.step for checkpoint in checkpoints[-1:]} | ({best} if best else set())
    surplus = len(checkpoints) - max(keep or len(checkpoints), len(protected))
    for checkpoint in [item for item in checkpoints if item.step not in protected][: max(surplus, 0)]:
        # The seal first: after a kill the rest is then known to be incomplete.
        (checkpoint.folder / COMPLETE).unlink(missing_ok=True)
        for path in checkpoint.folder.iterdir():
            if is_written(path, CHECKPOINT_FILES):
                path.unlink()
        if not any(checkpoint.folder.iterdir()):
            checkpoint.folder.rmdir()
