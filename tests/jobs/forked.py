"""A command in a process of its own that starts at once: forked from this one, with all its imports."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from finetune.cli import main


def run_forked(words: list[str], output: Path, prepare: Callable[[], Any] | None = None) -> int:
    """Run a command line in a forked process.

    Args:
        words: of the command line.
        output: gets standard output and standard error.
        prepare: called in the forked process before the command, such as to arrange its end.

    Returns:
        Its exit code; minus the signal's number where one killed it.
    """
    process = os.fork()
    if process == 0:
        code = 70
        try:
            torch.set_num_threads(1)  # threads do not survive a fork
            stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            if prepare is not None:
                prepare()
            code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def at_call(owner: Any, name: str, number: int, action: Callable[[], Any], *, after: bool = False) -> None:
    """Do something when a function is called for the n-th time.

    Args:
        owner: the module or class that the function is looked up in.
        name: of the function.
        number: which call, from 1.
        action: what to do then.
        after: once the function has returned, instead of before it runs.
    """
    function, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        now = calls[0] == number
        if now and not after:
            action()
        result = function(*arguments, **keywords)
        if now and after:
            action()
        return result

    setattr(owner, name, counted)


def kill_myself(number: signal.Signals = signal.SIGKILL) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)
