"""The trackers of a run: each gets everything; the failure of one ends neither the run nor the others."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from finetune.run.files import read_json
from finetune.run.folder import RunFolder
from finetune.run.results import Predictions, Scores
from finetune.run.trackers.options import TrackerConfig
from finetune.run.trackers.predictions import show_predictions
from finetune.run.trackers.tensorboard import TensorBoard
from finetune.run.trackers.tracker import TrackedRun, Tracker
from finetune.run.trackers.trackio import Trackio
from finetune.run.trackers.wandb import WeightsAndBiases

log = logging.getLogger(__name__)


def build_tracker(name: str, options: TrackerConfig) -> Tracker:
    """Return the tracker of a name, which is one of `options.NAMES`."""
    if name == "tensorboard":
        return TensorBoard()
    if name == "trackio":
        return Trackio(options.project)
    return WeightsAndBiases(options.project, options.mode)


class Trackers:
    """Hands a training to its trackers.

    An error in a tracker is one warning, after which that tracker gets nothing more.

    Args:
        folder: folder of the run.
        runs_dir: folder of all runs; the run's name is its path in it.
        options: which trackers, and how they are used.
    """

    def __init__(self, folder: RunFolder, runs_dir: Path, options: TrackerConfig) -> None:
        self._folder = folder
        self._name = _run_name(folder.root, runs_dir)
        self._most_rows = options.predictions
        self._chosen = [build_tracker(name, options) for name in options.names]
        self._checked: list[Tracker] = []
        self._open: list[Tracker] = []

    def check(self) -> None:
        """Check all trackers; called in the main process, before anything is written.

        Raises:
            UserError: a package is not installed, or refuses its settings.
        """
        for tracker in self._chosen:
            tracker.check()
        self._checked = list(self._chosen)

    @contextmanager
    def running(self, start: int = 0) -> Iterator[None]:
        """Keep the run open in each tracker while the block runs; a failed block marks it as failed.

        Args:
            start: step from which a resumed run continues; 0 for a new run.
        """
        if self._checked:  # only in the process that called `check`
            run = TrackedRun(self._folder.root, self._name, _describe(self._folder), start)
            for tracker in self._checked:
                self._begin(tracker, run)
        failed = True
        try:
            yield
            failed = False
        finally:
            self._attempt(lambda tracker: tracker.close(failed), closing=True)

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Send one line of the training, or one evaluation.

        Args:
            step: optimizer step, from 1.
            values: by transformers' names: fields of an evaluation begin with `eval_`.
        """
        numbers = _numbers(values)
        ended = {name: value for name, value in numbers.items() if name.startswith("train_")}
        curve = {_curve_name(name): value for name, value in numbers.items() if name not in ended}
        if curve:
            self._attempt(lambda tracker: tracker.log(step, curve))
        if ended:
            self._attempt(lambda tracker: tracker.summarize(step, ended))

    def show(self, step: int, predictions: Predictions, name: str = "predictions") -> None:
        """Send a table of the first predictions of an evaluation, with their images.

        Args:
            step: optimizer step of the model.
            predictions: the rows of the split and their images.
            name: of the table.
        """
        if not self._open or not self._most_rows or not predictions.rows:
            return
        try:
            rows = show_predictions(predictions, self._most_rows)
        except Exception as error:  # such as an image that is gone: the run itself does not need it
            log.warning("warning: the trackers get no table of predictions: %s", error)
            return
        self._attempt(lambda tracker: tracker.show(step, name, rows))

    def report(self, step: int, scores: Scores, predictions: Predictions) -> None:
        """Send the final evaluation, as `final/NAME`.

        Args:
            step: optimizer step of the result.
            scores: scores of the result.
            predictions: the rows of the split and their images.
        """
        final = {f"final/{name}": value for name, value in _numbers(scores).items()}
        self._attempt(lambda tracker: tracker.summarize(step, final))
        self.show(step, predictions, "final/predictions")

    def _begin(self, tracker: Tracker, run: TrackedRun) -> None:
        try:
            place = tracker.open(run)
        except Exception as error:  # a tracker does not end a training, whatever its failure
            log.warning(
                "warning: %s could not start (%s); the run continues without it.", tracker.name, _say(error)
            )
        else:
            if place:
                self._open.append(tracker)
                log.info("curves: %s", place)

    def _attempt(self, action: Callable[[Tracker], object], closing: bool = False) -> None:
        """Call an action with each open tracker; one that fails is given up."""
        for tracker in list(self._open):
            try:
                action(tracker)
            except Exception as error:  # a tracker does not end a training, whatever its failure
                self._open.remove(tracker)
                advice = tracker.advise()
                log.warning(
                    "warning: %s failed (%s); the run continues without it.%s",
                    tracker.name,
                    _say(error),
                    f" {advice}" if advice else "",
                )
                if not closing:
                    with suppress(Exception):  # it has failed already
                        tracker.close(True)


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__


def _run_name(folder: Path, runs: Path) -> str:
    """Return the folder's path inside the folder of runs: `NAME`, or `SWEEP/0`."""
    name = os.path.relpath(folder, runs)
    return folder.name if name.startswith("..") else Path(name).as_posix()


def _curve_name(name: str) -> str:
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Return the values that are numbers, without those of groups."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _describe(folder: RunFolder) -> dict[str, Any]:
    """Return the run's settings and environment, from its folder."""
    settings = OmegaConf.to_container(OmegaConf.load(folder.config))
    assert isinstance(settings, dict)
    environment = read_json(folder.environment)
    # The command line may contain what only its user may see.
    return {
        **{str(name): value for name, value in settings.items()},
        "environment": {name: value for name, value in environment.items() if name != "command"},
    }
