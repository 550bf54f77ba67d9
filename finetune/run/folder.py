"""The folder of a run: its paths, its ownership, and whether it may be written."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from finetune.errors import UserError
from finetune.run.checkpoints import list_checkpoints
from finetune.run.files import explain_disk_errors, remove_written, write_text
from finetune.run.lock import MARKER, RunLock

log = logging.getLogger(__name__)

_RECIPE_HEAD = "# @package _global_\ndefaults:\n"
_COMMAND_HEAD = '{\n  "command": [\n    "python",\n    "-m",\n    "finetune",'


@dataclass(frozen=True)
class Launch:
    """How a job was started."""

    folder: Path
    """The run's folder."""
    recipe: str
    """The composed config as a recipe: the text of `config.yaml`."""
    command: list[str]
    """The words of the command line, with `python -m finetune`."""

    def with_recipe(self, recipe: DictConfig | ListConfig) -> "Launch":
        """Return the launch with another recipe, under the comments of its own, which say how it is used.

        Args:
            recipe: the parsed text of `recipe`, with values that the data decided.
        """
        comments = [line for line in self.recipe.splitlines() if line.startswith("#")]
        return replace(self, recipe="\n".join([*comments, OmegaConf.to_yaml(recipe)]))


class RunFolder:
    """Paths inside a run's folder.

    Args:
        root: the folder, which may not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.metrics = root / "metrics.json"
        self.mask_vae = root / "mask_vae.npz"
        self.pictures = root / "pictures"
        self.thumbnails = root / "thumbnails"
        self.history = root / "history.jsonl"
        self.report = root / "report.html"
        self.report_text = root / "report.md"
        self.environment = root / "environment.json"
        self.skipped = root / "skipped.jsonl"
        self.log = root / "train.log"
        self.checkpoints = root / "checkpoints"
        self.predictions = root / "predictions"
        # In a repository, as `push` sends it, the weights are at the top.
        has_adapter, has_model = (
            (root / name).is_file() for name in ("adapter_config.json", "config.json")
        )
        self.adapter = root if has_adapter else root / "adapter"
        self.model = root if has_model and not has_adapter else root / "model"
        self._lock = RunLock(root)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock, also after an error."""
        self.release()

    @property
    def is_run(self) -> bool:
        """Whether finetune wrote the folder: by its marker, or by files of a version without markers."""
        if (self.root / MARKER).is_file():
            return True
        heads = ((self.config, _RECIPE_HEAD), (self.environment, _COMMAND_HEAD))
        return all(_starts_with(file, head) for file, head in heads)

    @property
    def is_begun(self) -> bool:
        """Whether there is a complete checkpoint."""
        return any(checkpoint.is_sealed for checkpoint in list_checkpoints(self.checkpoints))

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that may not be written, before anything slow is done, without changing it.

        With `resume` the folder may be missing: a scheduler restarts a job with the same command each time.

        Raises:
            UserError: it is not a run's folder, it has a run and neither flag was given, or another process
                writes in it.
        """
        with self._explaining():
            if self.root.is_symlink() and not self.root.exists():
                raise UserError(f"{self.root} is a link to nothing. Choose another run_name=.")
            if self.root.exists() and not self.root.is_dir():
                raise UserError(f"{self.root} is a file. Choose another run_name=.")
            if not self.root.is_dir() or not any(self.root.iterdir()):
                return
            if not self.is_run:
                raise UserError(
                    f"{self.root} is not empty, and no run wrote what is in it (there is no {MARKER}): "
                    "nothing in it is touched. Choose another run_name= or runs_dir=."
                )
            if not (resume or overwrite):
                go_on = "continue it (resume=true), " if self.is_begun else ""
                raise UserError(
                    f"{self.root} already holds a run. Choose a name (run_name=NAME), {go_on}or replace it "
                    "(overwrite=true)."
                )
            self._lock.acquire()

    def claim(self, *, resume: bool, overwrite: bool) -> None:
        """Create the folder and lock it; with `overwrite` delete the run in it.

        Only files that a run writes are deleted. Other files are kept.

        Raises:
            UserError: see `check`; or the folder cannot be made.
        """
        self.check(resume=resume, overwrite=overwrite)
        with self._explaining():
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if overwrite and (kept := remove_written(self.root)):
                names = ", ".join(str(file.relative_to(self.root)) for file in kept[:5])
                log.warning("warning: %s: kept %d files that no run wrote: %s", self.root, len(kept), names)

    def lock(self) -> None:
        """Keep other processes from writing in an existing run.

        Raises:
            UserError: another process writes in it.
        """
        with self._explaining():
            self._lock.acquire()

    def release(self) -> None:
        """Release the lock: other processes may write in the folder."""
        self._lock.release()

    def restore(self, files: dict[Path, str]) -> None:
        """Write the marker and some files again if the folder was deleted during the run.

        Args:
            files: path -> content.
        """
        if self._lock.is_in_place and all(file.is_file() for file in files):
            return
        log.warning("warning: %s was deleted or replaced during the run; it is made again", self.root)
        self._lock.release()
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        for file, text in files.items():
            write_text(file, text)

    def discard(self) -> None:
        """Delete the files of a run that took no step, and its folder if nothing else is in it."""
        if self.root.is_dir():
            kept = remove_written(self.root)
            (self.root / MARKER).unlink(missing_ok=True)
            if not kept and not self.root.is_symlink():
                self.root.rmdir()
        self._lock.release()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            with explain_disk_errors(self.root):
                yield
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be made or read: {error}. Choose another runs_dir= or run_name=."
            ) from error


def _starts_with(file: Path, head: str) -> bool:
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.read(len(head)) == head
    except (OSError, ValueError):
        return False
