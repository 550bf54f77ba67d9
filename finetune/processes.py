"""What the processes of one run do together: share small values, let one act, and fail as one.

Every function here is collective: all processes call it at the same point. A mistake that one of them finds
is raised in all, so that none waits for another that is gone, and the main process can report it once.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch.distributed
from accelerate import PartialState

from finetune.errors import UserError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long one process waits for another that works, on a download or a survey. One that died is noticed at
once: its connection closes. torch's own 30 minutes would end a run whose data take longer to read."""


@cache
def _cpu_group() -> Any:
    """Return a group of all processes that speaks over the network: a GPU need not be waited for."""
    return torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)


def share(value: T) -> list[T]:
    """Return every process's value, by rank."""
    if PartialState().num_processes == 1:
        return [value]
    values: list[Any] = [None] * PartialState().num_processes
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
    result, mistake = _attempt(action) if PartialState().is_main_process else (None, None)
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
        if PartialState().is_main_process is turn:
            result, mistake = _attempt(action)
        raise_together(mistake)
    return result  # type: ignore[return-value]  # every process had its turn


def _attempt(action: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return action(), None
    except UserError as error:
        return None, str(error)
