"""What watches a training: the progress bar, the log lines, signals, and when nothing improves any more."""

import logging
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from signal import Signals
from typing import Never

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune import signals
from finetune.processes import share

log = logging.getLogger(__name__)


def peak_memory_gib() -> float:
    """Return the most memory used so far: the GPU's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Progress(TrainerCallback):
    """A bar over the steps, and a line for each log of the trainer; the last step always has one.

    Args:
        global_batch: examples in one step.
    """

    def __init__(self, global_batch: int) -> None:
        self.global_batch = global_batch
        self._bar: tqdm[Never] | None = None
        self._since = (time.monotonic(), 0)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Open the bar where the run (re)starts; none where standard error is a file."""
        self._since = (time.monotonic(), state.global_step)
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=None
            )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Move the bar, and have the last step logged, however few steps there are."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Write one line: loss, learning rate, speed, memory."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        then, step = self._since
        now = time.monotonic()
        self._since = (now, state.global_step)
        speed = (state.global_step - step) * self.global_batch / max(now - then, 1e-9)
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

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
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
    """Saves and stops once the step, the evaluation or the save that a signal came in is over.

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

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Save after this step. Its evaluation, where it has one, comes first."""
        if self._agree():
            control.should_save = True
            control.should_training_stop = True

    on_evaluate = on_step_end

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Stop: what the signal asks for has just been saved."""
        if self._agree():
            control.should_training_stop = True

    def _agree(self) -> bool:
        """Return whether any process received a signal: all must stop after the same step."""
        self.received = next((number for number in share(signals.received()) if number is not None), None)
        return self.received is not None


class StopWithoutImprovement(TrainerCallback):
    """Stops after some evaluations of which none was better than the best before.

    It counts in the trainer's own history, which every checkpoint holds, so that a resumed run stops at the
    same step.

    Args:
        patience: evaluations without improvement.
        field: of the evaluation, as the history names it.
        greater_is_better: whether more of it is better.
    """

    def __init__(self, patience: int, field: str, greater_is_better: bool) -> None:
        self.patience = patience
        self.field = field
        self.sign = 1 if greater_is_better else -1

    def is_exhausted(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether the last evaluations of a history were no better than one before them."""
        best, waited = -float("inf"), 0
        for value in (self.sign * entry[self.field] for entry in history if self.field in entry):
            best, waited = (value, 0) if value > best else (best, waited + 1)
        return waited >= self.patience

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Stop here if this was the last evaluation to wait for."""
        if self.is_exhausted(state.log_history):
            control.should_training_stop = True
