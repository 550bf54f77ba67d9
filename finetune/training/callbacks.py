"""What watches a training: the progress bar, the log lines, and signals that end it."""

import logging
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import TrainerCallback

log = logging.getLogger(__name__)


def peak_memory_gib() -> float:
    """Return the most memory used so far: the GPU's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Progress(TrainerCallback):
    """A bar over the steps, and a line for each log of the trainer.

    Args:
        global_batch: examples in one step.
    """

    def __init__(self, global_batch: int) -> None:
        self.global_batch = global_batch
        self._bar: Any = None
        self._since = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar where the run (re)starts."""
        self._since = (time.monotonic(), state.global_step)
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line: loss, learning rate, speed, memory."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        then, step = self._since
        now = time.monotonic()
        self._since = (now, state.global_step)
        speed = (state.global_step - step) * self.global_batch / max(now - then, 1e-9)
        log.info(
            "step %d/%d  epoch %.2f  loss %.4f  lr %.2e  %.1f examples/s  %.2f GiB",
            state.global_step,
            state.max_steps,
            state.epoch,
            logs["loss"],
            logs["learning_rate"],
            speed,
            peak_memory_gib(),
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the evaluation's time out of the next line's speed."""
        self._since = (time.monotonic(), state.global_step)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the bar when the block ends, however it ends."""
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.close()


class StopOnSignal(TrainerCallback):
    """Saves and stops after the current step when the process is told to end.

    Ctrl-C, SIGTERM (torchrun, SLURM, a shell) and SIGUSR1 (SLURM's warning). A second one ends it at once.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block runs."""
        before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        log.warning("%s: saving after this step; once more ends at once.", self.received.name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Agree with the other processes: all must stop after the same step."""
        if PartialState().num_processes > 1:
            told = [number for number in gather_object([self.received]) if number is not None]
            self.received = told[0] if told else None
        if self.received is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
