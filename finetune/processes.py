"""What the processes of one run do together: share small values, let one act, and fail as one.

Every function here is collective: all processes call it at the same point. A mistake that one of them finds
is raised in all, so that none waits for another that is gone, and the main process can report it once.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import PartialState

from finetune.errors import UserError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long one process waits for another that works, on a download or a survey. One that died is noticed at
once: its connection closes. torch's own 30 minutes would end a run whose data take longer to read."""


def join_processes() -> None:
    """Find this process's device and the other processes; all but the main one log errors only."""
    PartialState(cpu=not torch.cuda.is_available())
    if not is_main_process():
        logging.getLogger("finetune").setLevel(logging.ERROR)


def is_main_process() -> bool:
    """Return whether this process is the one that writes and reports."""
    return bool(PartialState().is_main_process)


def count_processes() -> int:
    """Return how many processes work on this run."""
    return int(PartialState().num_processes)


@cache
def _cpu_group() -> Any:
    """Return a group of all processes that communicates over the network, without waiting for a GPU."""
    return torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)


def share(value: T) -> list[T]:
    """Return every process's value, by rank."""
    if count_processes() == 1:
        return [value]
    values: list[Any] = [None] * count_processes()
    torch.distributed.all_gather_object(values, value, group=_cpu_group())
    return values


def raise_together(mistake: str | None) -> None:
    """Raise in all processes if there is a mistake in any of them.

    Raises:
        UserError: the mistake of the first process that has one.
    """
    mistakes = [text for text in share(mistake) if text is not None]
    if mistakes:
        raise UserError(mistakes[0])


def on_main(action: Callable[[], T]) -> T:
    """Run something in the main process alone, and return its result in all of them.

    Raises:
        UserError: the action's own, in every process.
    """
    result, mistake = _attempt(action) if is_main_process() else (None, None)
    raise_together(mistake)
    return share(result)[0]  # type: ignore[return-value]  # rank 0 is the main process


def main_first(action: Callable[[], T]) -> T:
    """Run something in the main process, then in the others, which find in a cache what it made.

    Raises:
        UserError: the action's own, in every process, whichever it fails in.
    """
    result: T | None = None
    for turn in (True, False):
        mistake = None
        if is_main_process() is turn:
            result, mistake = _attempt(action)
        raise_together(mistake)
    return result  # type: ignore[return-value]  # every process had its turn


def _attempt(action: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return action(), None
    except UserError as error:
        return None, str(error)
