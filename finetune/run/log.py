"""Where the lines of a run go: the terminal and its log."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from finetune.errors import printable


class _BesideTheBar(logging.Handler):
    """Writes a line above a progress bar that is being drawn, instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class _Printable(logging.Formatter):
    """Shows a line without what a terminal would obey: names and texts in it come from data."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.FileHandler):
    """The run's log. Where it cannot be written, the terminal says so once, and the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Give up the file, as on a full disk; what must be written reports that by itself."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger("finetune").removeHandler(self)
        print(f"warning: {self.baseFilename} cannot be written ({error})", file=sys.stderr)


def set_up_logging(file: Path | None = None) -> None:
    """Send our lines to the terminal and, in the main process, to a file; libraries only warn."""
    import datasets
    import transformers
    from accelerate import PartialState

    main = PartialState().is_main_process
    logger = logging.getLogger("finetune")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if main else logging.ERROR)
    handlers: list[logging.Handler] = [_BesideTheBar()]
    if file is not None and main:
        handlers.append(_LogFile(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_Printable("%(message)s"))
        logger.addHandler(handler)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
