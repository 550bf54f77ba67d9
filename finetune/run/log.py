"""Logging to the terminal of a command line, and to the log in the run's folder."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from finetune.errors import printable

_ROOT = "finetune"


class _Terminal(logging.Handler):
    """Writes lines above a progress bar instead of into it.

    Args:
        name: `stdout` or `stderr`; the stream is looked up for each line, because tests replace it.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stream_name = name

    def emit(self, record: logging.LogRecord) -> None:
        stream: TextIO = getattr(sys, self.stream_name)
        tqdm.write(self.format(record), file=stream)
        stream.flush()


class _Printable(logging.Formatter):
    """Escapes terminal control characters: names and texts in a line come from data."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Timed(_Printable):
    """Puts the local time before every line."""

    def format(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        return "\n".join(f"{time}  {line}".rstrip() for line in super().format(record).split("\n"))


class _LogFile(logging.FileHandler):
    """The run's log. If it cannot be written, this is reported once, and the run continues."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Stop writing the file, such as on a full disk; the files of the result report that themselves."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger(_ROOT).removeHandler(self)
        logging.getLogger(_ROOT).warning("warning: %s cannot be written (%s)", self.baseFilename, error)


class _Forward(logging.Handler):
    """Passes records to the handlers of a caller whose logger had a higher level.

    Args:
        level: level of the caller's logger.
        handlers: handlers of the caller's logger.
        parent: the logger that it propagates to, if any.
    """

    def __init__(self, level: int, handlers: list[logging.Handler], parent: logging.Logger | None) -> None:
        super().__init__(level)
        self.handlers = handlers
        self.parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        for handler in self.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if self.parent is not None:
            self.parent.callHandlers(record)


def show_on_terminal(name: str = "stdout") -> None:
    """Show finetune's log on the terminal, and only errors of the libraries that are already imported.

    Args:
        name: `stdout`, or `stderr` if standard output is for data.
    """
    logger = logging.getLogger(_ROOT)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Terminal)]:
        logger.removeHandler(handler)
    terminal = _Terminal(name)
    terminal.setFormatter(_Printable("%(message)s"))
    logger.addHandler(terminal)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if (transformers := sys.modules.get("transformers")) is not None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        # Which also hides the bars of downloads; these show themselves on a terminal only.
        sys.modules["huggingface_hub"].utils.enable_progress_bars()
    if (datasets := sys.modules.get("datasets")) is not None:
        datasets.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()


@contextmanager
def unchanged_logging() -> Iterator[None]:
    """Restore level and handlers of finetune's logger when the block ends."""
    logger = logging.getLogger(_ROOT)
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Also write finetune's log, from INFO on, to a file while the block runs, each line with its time.

    A higher level set by the calling program is lowered meanwhile, but its handlers get no more lines than
    before.

    Args:
        file: the lines are appended to it.
    """
    logger = logging.getLogger(_ROOT)
    with unchanged_logging():
        if (level := logger.getEffectiveLevel()) > logging.INFO:
            parent = logger.parent if logger.propagate else None
            logger.handlers[:] = [_Forward(level, list(logger.handlers), parent)]
            logger.propagate = False
            logger.setLevel(logging.INFO)
        handler = _LogFile(file, encoding="utf-8")
        handler.setFormatter(_Timed("%(message)s"))
        logger.addHandler(handler)
        try:
            yield
        finally:
            handler.close()
