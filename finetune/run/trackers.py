"""Curves and scores in Weights & Biases, for runs with `tracker=wandb`.

A mistake in the settings ends the command before a file is written. A network or server failure later never
ends a training: the curves remain in a file in the run's folder, which can be uploaded. Not transformers'
`WandbCallback`: it would end the training, and gets neither the final score nor the run's own settings.
"""

import logging
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from finetune.errors import UserError
from finetune.run.files import read_json, write_text
from finetune.run.folder import RunFolder

log = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled")

_INIT_SECONDS = 30.0
_FINISH_SECONDS = 60.0
"""Longest delay by an unreachable server at the start and the end of a run."""

_UNREACHABLE = "did not respond in time"
"""Part of wandb's message if the server did not answer, in contrast to refusing the key."""


class Tracker:
    """Logs one training to Weights & Biases; without `tracker=wandb` it does nothing.

    Args:
        folder: folder of the run.
        runs_dir: folder of all runs; the run's name is its path in it.
        report_to: `none` or `wandb`.
        project: name of the project in the tracker.
        mode: `online`, `offline` or `disabled`; None for the mode of WANDB_MODE or wandb's settings.
    """

    def __init__(
        self,
        folder: RunFolder,
        runs_dir: Path,
        *,
        report_to: str = "none",
        project: str = "paligemma",
        mode: str | None = None,
    ) -> None:
        self._folder = folder
        self._name = _run_name(folder.root, runs_dir)
        self._report_to = report_to
        self._project = project
        self._given_mode = mode
        self._mode: str | None = None
        self._run: Any = None

    def check(self) -> None:
        """Check installation, settings and login; called in the main process, before anything is written.

        Raises:
            UserError: wandb is not installed, a setting is wrong, nobody is logged in, or the server
                refuses the key.
        """
        if self._report_to != "wandb":
            return
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "tracker=wandb needs wandb: pip install 'finetune-paligemma[wandb]', or leave it out "
                "with tracker=none."
            ) from error
        logging.getLogger("wandb").addHandler(logging.NullHandler())
        self._mode = _read_mode(wandb, self._given_mode)
        try:
            wandb.setup(wandb.Settings(mode=self._mode, project=self._project, silent=True))
        except (ValueError, wandb.Error) as error:
            raise UserError(f"tracker.project={self._project}: {error}") from error
        if self._mode == "online" and not _is_online(wandb):
            self._mode = "offline"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the run open in Weights & Biases while the block runs; a failed block marks it as failed.

        A resumed run continues its curves: its id is kept in its folder.
        """
        if self._mode in {None, "disabled"}:  # also in every process but the one that called `check`
            yield
            return
        run = self._run = self._open()
        exit_code = 1
        try:
            yield
            exit_code = 0
        finally:
            self._attempt(lambda run: run.finish(exit_code=exit_code))
            if run is not None:
                _tear_down()

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Log one line of the training, or one evaluation.

        Args:
            step: optimizer step, from 1.
            values: by transformers' names: fields of an evaluation begin with `eval_`.
        """
        ended = {name: value for name, value in values.items() if name.startswith("train_")}
        curve = {_curve_name(name): value for name, value in values.items() if name not in ended}
        self._attempt(lambda run: run.summary.update(ended))
        self._attempt(lambda run: run.log({**curve, "train/global_step": step}))

    def report(self, scores: Mapping[str, object], pictures: Sequence[Path] = ()) -> None:
        """Add the final evaluation.

        Args:
            scores: shown as `final/NAME` in the run's summary.
            pictures: files of drawn predictions, shown as `predictions`.
        """
        final = {f"final/{name}": value for name, value in scores.items() if not isinstance(value, dict)}
        self._attempt(lambda run: run.summary.update(final))
        if pictures:
            self._attempt(lambda run: run.log({"predictions": _load_pictures(pictures)}))

    def _open(self) -> Any:
        """Start the run, offline if the server does not answer; None if that fails too."""
        import wandb

        modes: tuple[Any, ...] = (self._mode, "offline")
        for mode in dict.fromkeys(modes):
            try:
                run = wandb.init(
                    project=self._project,
                    name=self._name,
                    group=self._name.rpartition("/")[0] or None,
                    id=self._read_id(),
                    resume="allow",
                    mode=mode,
                    dir=str(self._folder.root),
                    config=self._describe(),
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
            except Exception as error:  # a tracker does not end a training, whatever its failure
                log.warning("warning: wandb could not start (%s): %s", mode, error)
                _tear_down()  # frees the id
            else:
                run.define_metric("*", step_metric="train/global_step")
                log.info("curves: %s", run.url or f"offline; upload them with `{_sync_command(run)}`")
                return run
        return None

    def _attempt(self, action: Callable[[Any], Any]) -> None:
        """Call an action with the open run; after the first failure there is no other attempt."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # a tracker does not end a training, whatever its failure
            log.warning(
                "warning: wandb failed (%s); the run continues without it. `%s` uploads what it has.",
                error or type(error).__name__,
                _sync_command(self._run),
            )
            self._run = None

    def _read_id(self) -> str:
        """Return the id of this folder's run, a new one for a new folder."""
        file = self._folder.root / "wandb" / "id"
        if not file.is_file():
            write_text(file, secrets.token_hex(4))
        return file.read_text(encoding="utf-8")

    def _describe(self) -> dict[str, Any]:
        """Return the run's settings and environment, from its folder."""
        settings = OmegaConf.to_container(OmegaConf.load(self._folder.config))
        assert isinstance(settings, dict)
        environment = read_json(self._folder.environment)
        return {**settings, "environment": {k: v for k, v in environment.items() if k != "command"}}


def _run_name(folder: Path, runs: Path) -> str:
    """Return the folder's path inside the folder of runs: `NAME`, or `SWEEP/0`."""
    name = os.path.relpath(folder, runs)
    return folder.name if name.startswith("..") else Path(name).as_posix()


def _load_pictures(files: Sequence[Path]) -> list[Any]:
    import wandb

    return [wandb.Image(str(file), caption=file.stem) for file in files]


def _curve_name(name: str) -> str:
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


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


def _is_online(wandb: Any) -> bool:
    """Log in; False if the server does not answer.

    Raises:
        UserError: nobody is logged in, or the server refuses the key.
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
    raise UserError(f"tracker=wandb: nobody is logged in. Run `wandb login`, set WANDB_API_KEY, {instead}")


def _tear_down() -> None:
    """End wandb's background process, so that a sweep's next run starts afresh."""
    import wandb

    with suppress(Exception):  # that process may have been killed
        wandb.teardown()


def _sync_command(run: Any) -> str:
    return shlex.join(["wandb", "sync", os.path.relpath(Path(run.dir).parent)])
