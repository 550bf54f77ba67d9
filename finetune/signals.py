"""Ctrl-C, SIGTERM and SIGUSR1, from the start of a command to its end.

Schedulers end jobs by signals: SLURM sends SIGUSR1 as a warning and SIGTERM to every process of a group,
torchrun forwards SIGTERM, a user types Ctrl-C. During training a signal is remembered until the end of the
step, evaluation or save, where a checkpoint can be saved (`deferred`): within a step only some of the
weights may be new. At any other time it ends the command at once, with a line on how to continue.
"""

import atexit
import ctypes
import multiprocessing.util  # it waits for workers at exit: what is registered after it runs before it
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
"""A signal within this time after another counts as the same: launchers signal a process and its group."""


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
        """The exit code that a shell reports for a command that a signal ended."""
        return 128 + self.signal


class _Listener:
    """The signal that this process has received, and the reaction to it."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.on_first: Callable[[signal.Signals], None] | None = None
        """Called at the first signal under `deferred`; None if a signal ends the command."""
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
_workers: set[multiprocessing.process.BaseProcess] = set()
"""Data workers of this process."""


@contextmanager
def listening() -> Iterator[None]:
    """Handle signals while the block runs; the previous handlers are restored after it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
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
        on_first: called at once, to report that the signal was received.
    """
    _listener.on_first = on_first
    try:
        yield
    finally:
        _listener.on_first = None


def received() -> signal.Signals | None:
    """Return the signal that was received under `deferred`, if any."""
    return _listener.received


def advise(text: str) -> None:
    """Set the line that is printed if a signal ends the command from now on: how to continue."""
    _listener.advice = text


def advice() -> str:
    """Return the line that was set last."""
    return _listener.advice


@contextmanager
def held() -> Iterator[None]:
    """Block signals for data workers that start in the block, until each calls `ignore_in_worker`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    others = set(multiprocessing.active_children())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _workers.update(set(multiprocessing.active_children()) - others)


@atexit.register
def _kill_workers() -> None:
    """End workers that wait for a file forever: the signal by which they would be ended is ignored."""
    for worker in _workers.intersection(multiprocessing.active_children()):
        worker.kill()


def ignore_in_worker(*_: Any) -> None:
    """Ignore signals in a data worker, from its start.

    A scheduler signals the whole process group. A worker that ended would fail the step that the main
    process is to finish, and on Ctrl-C each worker would print a traceback.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(*_: Any) -> None:
    """Ignore signals in a data worker that writes much, and end when the main process is killed.

    torch's workers check their parent while they wait for work, but not while they write to a full pipe.
    """
    ignore_in_worker()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_launcher() -> None:
    """Have the kernel send SIGTERM if torchrun dies: a signal that it does not handle kills it at once."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
