"""What a tracker is: a place outside the run's folder that shows a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from finetune.errors import UserError
from finetune.run.trackers.predictions import Shown


class TrackedRun(NamedTuple):
    """What trackers know of a run."""

    folder: Path
    """Its folder."""
    name: str
    """Its path in the folder of runs: `NAME`, or `SWEEP/0`."""
    settings: Mapping[str, Any]
    """Content of `config.yaml`, and of `environment.json` under `environment`."""
    start: int
    """Step from which a resumed run continues; 0 for a new one."""


class Tracker(Protocol):
    """Shows one training. Any method but `check` may fail with any error, which does not end the run."""

    name: str
    """As `tracker=` names it."""

    def check(self) -> None:
        """Check installation and settings; called in the main process, before anything is written.

        Raises:
            UserError: the package is not installed, or refuses a setting.
        """

    def open(self, run: TrackedRun) -> str:
        """Begin, or continue, the run, and return where its curves are; empty if nothing is recorded."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each of some curves.

        Args:
            step: optimizer step, from 1.
            values: curve -> value.
        """

    def show(self, step: int, name: str, rows: Sequence[Shown]) -> None:
        """Add a table of predictions with their images.

        Args:
            step: optimizer step of the model.
            name: of the table.
            rows: at least one.
        """

    def summarize(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of the whole run, such as `final/exact_match`.

        Args:
            step: optimizer step of the result.
            values: name -> value.
        """

    def close(self, failed: bool) -> None:
        """End the run, and write what is not written yet.

        Args:
            failed: whether the training ended with an error.
        """

    def advise(self) -> str:
        """Return what the user can do with what was recorded before a failure; may be empty."""


def not_installed(name: str, error: ImportError) -> UserError:
    """Return the error for a tracker whose package cannot be imported."""
    return UserError(
        f"tracker={name} needs the package {name}, which cannot be imported ({error}). Install it with "
        f"`pip install {name}` or `pip install 'finetune-paligemma[{name}]'`. Or: tracker=none."
    )
