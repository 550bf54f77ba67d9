"""Ctrl-C, SIGTERM and SIGUSR1, from the first line of a command to its last.

Schedulers end jobs by signals: SLURM sends SIGUSR1 as a warning and SIGTERM to every process of a group,
torchrun forwards SIGTERM, a user types Ctrl-C. While steps are taken a signal is remembered and answered
where a checkpoint can be saved (`deferred`); at any other moment it ends the command at once, which says
how to go on.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

_PR_SET_PDEATHSIG = 1
_SAME_SECONDS = 0.5
"""Within this time a second signal is the first one again: launchers signal a process and its group."""


class Interrupted(KeyboardInterrupt):
    """A signal ends the command now.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """The code that a shell gives a command which a signal ended."""
        return 128 + self.signal


class _Listener:
    """What this process has received, and what it does about it."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.on_first: Callable[[signal.Signals], None] | None = None
        """Called at the first signal under `deferred`; None: a signal ends the command."""
        self.advice = ""
        self._when = -_SAME_SECONDS

    def receive(self, number: int, frame: FrameType | None) -> None:
        repeated = time.monotonic() - self._when < _SAME_SECONDS
        self._when = time.monotonic()
        if self.received is not None and repeated:
            return
        if self.on_first is None or self.received is not None:
            raise Interrupted(number)
        self.received = signal.Signals(number)
        self.on_first(self.received)


_listener = _Listener()


@contextmanager
def listening() -> Iterator[None]:
    """Answer signals while the block runs; the process's own handlers come back after it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    _listener.received, _listener.on_first, _listener.advice = None, None, ""
    before = {number: signal.signal(number, _listener.receive) for number in SIGNALS}
    _die_with_launcher()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred(on_first: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Remember the first signal while the block runs, for `received`; a second one ends the command.

    Args:
        on_first: called at once, to tell the user that it was heard.
    """
    _listener.on_first = on_first
    try:
        yield
    finally:
        _listener.on_first = None


def received() -> signal.Signals | None:
    """Return the signal that came under `deferred`."""
    return _listener.received


def advise(text: str) -> None:
    """Say what to tell the user if a signal ends the command from here on: how to go on."""
    _listener.advice = text


def advice() -> str:
    """Return what was said last."""
    return _listener.advice


@contextmanager
def held() -> Iterator[None]:
    """Keep signals from data workers that start in the block, until each has called `ignore_in_worker`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_worker(*_: Any) -> None:
    """Leave signals to the main process: called in each data worker when it starts.

    A scheduler signals the whole process group. A worker that died of it would end the step that the main
    process wants to finish, and Ctrl-C would print a traceback from each of them.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(*_: Any) -> None:
    """Leave signals to the main process, and end when it is killed: for a worker that writes much.

    torch's workers look for their parent while they wait for work, but not while a full pipe keeps them.
    """
    ignore_in_worker()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_launcher() -> None:
    """Have the kernel send SIGTERM if torchrun dies, which a signal it does not know ends at once."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
