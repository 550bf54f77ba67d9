"""Collective operations of the processes of a run: share values, act in one process, fail together.

All processes call a function of this file at the same point. A mistake in one of them is raised in all, so
that none waits for a process that has ended, and the main process reports it once.
"""

import atexit
import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import PartialState

from finetune.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""Longest wait for a process that is busy with a download or a survey. One that died is noticed at once,
because its connection closes. torch's default of 30 minutes would end runs whose data take longer."""


def join_processes() -> None:
    """Initialize this process's device and communication; all but the main process log only errors."""
    PartialState(cpu=not torch.cuda.is_available())
    if count_processes() > 1:
        # Else the threads of the process group end with the interpreter, sometimes with an abort (SIGABRT)
        # after a finished run.
        atexit.register(_leave_processes)
    if not is_main_process():
        logging.getLogger("finetune").setLevel(logging.ERROR)


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_main_process() -> bool:
    """Return whether this process writes files and reports."""
    return bool(PartialState().is_main_process)


def count_processes() -> int:
    """Return the number of processes of this run."""
    return int(PartialState().num_processes)


def warn_of_idle_gpus(command: list[str]) -> None:
    """Warn if this process leaves visible GPUs idle, with the command that uses them all."""
    visible = torch.cuda.device_count()
    if visible > 1 and count_processes() == 1:
        words = command[command.index("-m") :]
        log.warning(
            "%d GPUs are visible, and this process uses one. For all of them: %s",
            visible,
            shlex.join(["torchrun", "--nproc-per-node", str(visible), *words]),
        )


@cache
def _cpu_group() -> Any:
    """Return a group of all processes that communicates on the CPU, without synchronizing the GPU."""
    return torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)


def share(value: T) -> list[T]:
    """Return every process's value, by rank."""
    if count_processes() == 1:
        return [value]
    values: list[Any] = [None] * count_processes()
    torch.distributed.all_gather_object(values, value, group=_cpu_group())
    return values


def raise_together(mistake: str | None) -> None:
    """Raise a mistake of any process in all of them.

    Raises:
        UserError: a process has a mistake; that of the lowest rank.
    """
    mistakes = [text for text in share(mistake) if text is not None]
    if mistakes:
        raise UserError(mistakes[0])


@contextmanager
def failing_together() -> Iterator[None]:
    """Raise a mistake that any process makes in the block in all of them, when all have left it.

    Raises:
        UserError: see `raise_together`.
    """
    mistake = None
    try:
        yield
    except UserError as error:
        mistake = str(error)
    raise_together(mistake)


def on_main(action: Callable[[], T]) -> T:
    """Run an action in the main process only, and return its result in all processes.

    Raises:
        UserError: the action's, in every process.
    """
    result: T | None = None
    with failing_together():
        if is_main_process():
            result = action()
    return share(result)[0]  # type: ignore[return-value]  # rank 0 is the main process


def main_first(action: Callable[[], T]) -> T:
    """Run an action in the main process, which fills a cache, and then in the others.

    Raises:
        UserError: the action's, in every process, whichever it fails in.
    """
    result: T | None = None
    for turn in (True, False):
        with failing_together():
            if is_main_process() is turn:
                result = action()
    return result  # type: ignore[return-value]  # every process had its turn
