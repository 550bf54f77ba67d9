"""trackio: a local database of all runs on this machine, which `trackio show` serves as a page."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError
from finetune.run.trackers.predictions import COLUMNS, Shown
from finetune.run.trackers.tracker import TrackedRun, not_installed

log = logging.getLogger(__name__)


class Trackio:
    """Curves, tables of predictions, settings and final scores in trackio's database.

    It is in TRACKIO_DIR, or else next to the Hub's cache; trackio itself reads TRACKIO_SPACE_ID.

    Args:
        project: name of the project.
    """

    name = "trackio"

    def __init__(self, project: str) -> None:
        self._project = project
        self._run: Any = None

    def check(self) -> None:
        """Check that the package is installed, and accepts the project's name.

        Raises:
            UserError: it is not, or does not.
        """
        try:
            import trackio
        except ImportError as error:
            raise not_installed(self.name, error) from error
        try:
            trackio.SQLiteStorage.validate_project_name(self._project)
        except ValueError as error:
            raise UserError(f"tracker.project={self._project}: {error}") from error

    def open(self, run: TrackedRun) -> str:
        """Begin the run, or continue the latest one of this name."""
        import trackio

        with _silent():
            self._run = trackio.init(
                project=self._project,
                name=run.name,
                group=run.name.rpartition("/")[0] or None,
                config=dict(run.settings),
                resume="allow" if run.start else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return f"trackio show --project {self._project}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each of some curves."""
        self._run.log(dict(values), step=step)

    def show(self, step: int, name: str, rows: Sequence[Shown]) -> None:
        """Add a table."""
        import trackio

        data = [list(row._replace(image=trackio.Image(row.image))) for row in rows]
        self._run.log({name: trackio.Table(columns=list(COLUMNS), data=data)}, step=step)

    def summarize(self, step: int, values: Mapping[str, float]) -> None:
        """Add values as points: trackio has no summary."""
        self.log(step, values)

    def close(self, failed: bool) -> None:
        """Write what is not written yet."""
        import trackio

        with _silent():
            trackio.finish()

    def advise(self) -> str:
        """Return an empty text: what was written remains in the database."""
        return ""


@contextlib.contextmanager
def _silent() -> Any:
    """Keep what trackio prints off standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
