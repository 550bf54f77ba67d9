"""Callbacks of the training: progress bar, log lines, signals, early stopping."""

import logging
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from signal import Signals
from typing import Never

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from finetune import signals
from finetune.processes import share
from finetune.progress import track

log = logging.getLogger(__name__)


def peak_memory_gib() -> float:
    """Return the peak memory so far: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Progress(TrainerCallback):
    """A bar over the steps, and a line for each log of the trainer, which always includes the last step.

    Args:
        global_batch: examples in one step.
    """

    def __init__(self, global_batch: int) -> None:
        self.global_batch = global_batch
        self._bar: tqdm[Never] | None = None
        self._since = (time.monotonic(), 0)

    def on_train_begin(
        self, args: object, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Open the bar at the step where the run starts or resumes; no bar if standard error is a file."""
        self._since = (time.monotonic(), state.global_step)
        if state.is_world_process_zero:
            self._bar = track((), "train", "step", total=state.max_steps, done=state.global_step)

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Update the bar, and log the last step whatever `logging_steps` is."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: dict[str, float], **_: object
    ) -> None:
        """Write one line: loss, learning rate, speed, memory."""
        if not state.is_world_process_zero or "loss" not in logs:
            return
        then, step = self._since
        now = time.monotonic()
        self._since = (now, state.global_step)
        speed = (state.global_step - step) * self.global_batch / max(now - then, 1e-9)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {logs['loss']:.4f}, peak {peak_memory_gib():.2f} GiB")
        log.info(
            "step %d/%d  epoch %.2f  train loss %.4f  lr %.2e  %.1f examples/s  peak memory %.2f GiB",
            state.global_step,
            state.max_steps,
            state.epoch,
            logs["loss"],
            logs["learning_rate"],
            speed,
            peak_memory_gib(),
        )

    def on_evaluate(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Exclude the evaluation's time from the speed in the next line."""
        self._since = (time.monotonic(), state.global_step)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the bar when the block ends, also with an error."""
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.close()


class StopOnSignal(TrainerCallback):
    """Saves and stops after the step, evaluation or save during which a signal arrived.

    Attributes:
        received: the signal, once all processes have agreed to stop.
    """

    def __init__(self) -> None:
        self.received: Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block runs; a second signal ends it at once."""
        with signals.deferred(
            lambda number: log.warning(
                "%s: saving a checkpoint, then stopping; once more stops at once.", number.name
            )
        ):
            yield

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Save after this step; its evaluation, if there is one, comes first."""
        if self._agree():
            control.should_save = True
            control.should_training_stop = True

    on_evaluate = on_step_end

    def on_save(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Stop: the checkpoint has just been saved."""
        if self._agree():
            control.should_training_stop = True

    def _agree(self) -> bool:
        """Return whether any process received a signal; all must stop after the same step."""
        self.received = next((number for number in share(signals.received()) if number is not None), None)
        return self.received is not None


class SaveEvery(TrainerCallback):
    """Saves every so many steps, in addition to the steps at which the trainer saves.

    Args:
        steps: between two checkpoints.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Save after this step; its evaluation, if there is one, comes first."""
        if state.global_step % self.steps == 0:
            control.should_save = True


class ReportLogs(TrainerCallback):
    """Passes each log line of the trainer on, such as to a tracker.

    Args:
        send: called with the step and the line's values.
    """

    def __init__(self, send: Callable[[int, Mapping[str, object]], None]) -> None:
        self.send = send

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: dict[str, float], **_: object
    ) -> None:
        """Send the line."""
        self.send(state.global_step, logs)


class WholeSteps(TrainerCallback):
    """Tracks whether the weights are those of a whole step, and the random state after it.

    Without a signal handler, Ctrl-C raises KeyboardInterrupt anywhere, mostly in a forward or a backward
    pass: these change no weights, but draw dropout.
    """

    def __init__(self) -> None:
        self.is_whole = True
        self._restore: Callable[[], None] | None = None

    def on_pre_optimizer_step(
        self, args: object, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Note that the weights begin to change."""
        self.is_whole = False

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Note that the step is whole, and the random state after it."""
        of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        of_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

        def restore() -> None:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
            torch.set_rng_state(of_torch)
            if of_gpu is not None:
                torch.cuda.set_rng_state(of_gpu)

        self._restore = restore
        self.is_whole = True

    def restore_random_state(self) -> None:
        """Restore the random state before the unfinished step."""
        if self._restore is not None:
            self._restore()


class StopWithoutImprovement(TrainerCallback):
    """Stops after some evaluations without improvement.

    They are counted in the trainer's history, which every checkpoint holds, so that a resumed run stops at
    the same step.

    Args:
        patience: evaluations without improvement.
        field: of the evaluation, under its name in the history.
        greater_is_better: whether larger values are better.
    """

    def __init__(self, patience: int, field: str, greater_is_better: bool) -> None:
        self.patience = patience
        self.field = field
        self.sign = 1 if greater_is_better else -1

    def is_exhausted(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether the last evaluations of a history did not improve on those before them."""
        best, waited = -float("inf"), 0
        for value in (self.sign * entry[self.field] for entry in history if self.field in entry):
            best, waited = (value, 0) if value > best else (best, waited + 1)
        return waited >= self.patience

    def on_evaluate(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Stop if the patience is exhausted."""
        if self.is_exhausted(state.log_history):
            control.should_training_stop = True
