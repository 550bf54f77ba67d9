"""Weights & Biases: curves, tables and scores on its server, or in a file of the run's folder.

A mistake in the settings ends the command before a file is written. Where nobody is logged in, or the
server does not answer, the curves go into a file in the run's folder, which can be uploaded. transformers'
`WandbCallback` would end the training, and gets neither the final score nor the run's own settings.
"""

import logging
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.run.files import write_text
from finetune.run.trackers.options import MODES
from finetune.run.trackers.predictions import COLUMNS, Shown
from finetune.run.trackers.tracker import TrackedRun, not_installed

log = logging.getLogger(__name__)

_INIT_SECONDS = 30.0
_FINISH_SECONDS = 60.0
"""Longest delay by an unreachable server at the start and the end of a run."""

_UNREACHABLE = "did not respond in time"
"""Part of wandb's message if the server did not answer, in contrast to refusing the key."""


class WeightsAndBiases:
    """A run of Weights & Biases.

    Args:
        project: name of the project.
        mode: `online`, `offline` or `disabled`; None for the mode of WANDB_MODE or wandb's settings.
    """

    name = "wandb"

    def __init__(self, project: str = "paligemma", mode: str | None = None) -> None:
        self._project = project
        self._given_mode = mode
        self._mode: Any = None
        self._run: Any = None

    def check(self) -> None:
        """Check installation, settings and login.

        Raises:
            UserError: wandb is not installed, a setting is wrong, the server refuses the key, or nobody is
                logged in although `mode` is `online`.
        """
        try:
            import wandb
        except ImportError as error:
            raise not_installed(self.name, error) from error
        logging.getLogger("wandb").addHandler(logging.NullHandler())
        self._mode = _read_mode(wandb, self._given_mode)
        try:
            wandb.setup(wandb.Settings(mode=self._mode, project=self._project, silent=True))
        except (ValueError, wandb.Error) as error:
            raise UserError(f"tracker.project={self._project}: {error}") from error
        if self._mode == "online" and not _is_online(wandb, asked=self._given_mode == "online"):
            self._mode = "offline"

    def open(self, run: TrackedRun) -> str:
        """Start or continue the run, whose id its folder keeps; offline if the server does not answer."""
        if self._mode == "disabled":
            return ""
        try:
            self._run = self._start(run, self._mode)
        except Exception as error:  # of any kind: the other mode needs no server
            _tear_down()  # frees the id
            if self._mode == "offline":
                raise
            log.warning("warning: wandb could not start online (%s); offline instead.", error)
            try:
                self._run = self._start(run, "offline")
            except Exception:
                _tear_down()
                raise
        self._run.define_metric("*", step_metric="train/global_step")
        return self._run.url or f"offline; upload them with `{_sync_command(self._run)}`"

    def _start(self, run: TrackedRun, mode: Any) -> Any:
        import wandb

        return wandb.init(
            project=self._project,
            name=run.name,
            group=run.name.rpartition("/")[0] or None,
            id=_read_id(run.folder),
            resume="allow",
            mode=mode,
            dir=str(run.folder),
            config=dict(run.settings),
            settings=wandb.Settings(
                silent=True,
                console="off",
                allow_val_change=True,
                # The command line and the address of the repository may contain a token.
                x_disable_meta=True,
                disable_git=True,
                init_timeout=_INIT_SECONDS,
                finish_timeout=_FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each of some curves."""
        self._run.log({**values, "train/global_step": step})

    def show(self, step: int, name: str, rows: Sequence[Shown]) -> None:
        """Add a table."""
        import wandb

        table = wandb.Table(columns=list(COLUMNS))
        for row in rows:
            table.add_data(*row._replace(image=wandb.Image(row.image)))
        with _data_in(self._run.settings.wandb_dir):
            self._run.log({name: table, "train/global_step": step})

    def summarize(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the run's summary."""
        self._run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        """Upload what is left, for a bounded time, and end wandb's process."""
        try:
            self._run.finish(exit_code=int(failed))
        finally:
            _tear_down()

    def advise(self) -> str:
        """Return the command that uploads what the run's folder has."""
        return f"`{_sync_command(self._run)}` uploads what it has."


@contextmanager
def _data_in(folder: str) -> Iterator[None]:
    """Have wandb copy the images of tables into a folder; by default it is one in the user's home."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def _read_id(folder: Path) -> str:
    """Return the id of this folder's run, a new one for a new folder."""
    file = folder / "wandb" / "id"
    if not file.is_file():
        write_text(file, secrets.token_hex(4))
    return file.read_text(encoding="utf-8")


def _read_mode(wandb: Any, given: str | None) -> str:
    """Return the given mode, else that of WANDB_MODE or wandb's settings files.

    Raises:
        UserError: the mode is unknown.
    """
    older = {"run": "online", "dryrun": "offline"}
    try:
        mode = given or wandb.setup(wandb.Settings(silent=True)).settings.mode
    except ValueError as error:
        mode = os.environ.get("WANDB_MODE")
        if mode in {*MODES, *older}:
            raise UserError(f"wandb refuses its own settings, its files or WANDB_*: {error}") from error
    mode = older.get(str(mode), str(mode))
    if mode not in MODES:
        key = "tracker.mode" if given else "WANDB_MODE"
        raise UserError(f"{key}={mode}: expected {', '.join(MODES[:-1])} or {MODES[-1]}.")
    return mode


def _is_online(wandb: Any, asked: bool) -> bool:
    """Log in; False if nobody is logged in, or the server does not answer.

    Args:
        wandb: the module.
        asked: whether the user named the mode `online`.

    Raises:
        UserError: the server refuses the key, or nobody is logged in although `online` was asked for.
    """
    instead = "or keep the curves in the run's folder with tracker.mode=offline."
    try:
        if wandb.login(prompt=False, verify=True):
            return True
    except wandb.errors.AuthenticationError as error:
        if _UNREACHABLE in str(error):
            log.warning("warning: wandb's server does not answer; the curves stay in the run's folder.")
            return False
        raise UserError(
            f"tracker=wandb: {error}. Run `wandb login` again, set WANDB_API_KEY, {instead}"
        ) from error
    if asked:
        raise UserError(
            f"tracker.mode=online: nobody is logged in. Run `wandb login`, set WANDB_API_KEY, {instead}"
        )
    log.warning(
        "warning: nobody is logged in to wandb (`wandb login`, or WANDB_API_KEY); the curves stay in the "
        "run's folder."
    )
    return False


def _tear_down() -> None:
    """End wandb's background process, so that a sweep's next run starts afresh."""
    import wandb

    with suppress(Exception):  # that process may have been killed
        wandb.teardown()


def _sync_command(run: Any) -> str:
    return shlex.join(["wandb", "sync", os.path.relpath(Path(run.dir).parent)])
