"""What `demo` returns: a page that is served, or the folder of a Space."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import printable
from finetune.result import Result


def _nothing() -> None:
    """Close nothing."""


@dataclass(frozen=True)
class DemoResult(Result):
    """A page that is served until `close` is called, or a Space."""

    url: str = ""
    """Address of the page; empty for a Space."""
    folder: Path | None = None
    """Folder of the Space; None for a page."""
    stop: Callable[[], None] = _nothing
    """Ends the page."""

    def close(self) -> None:
        """Stop serving the page, and free its port and its files."""
        self.stop()

    def __enter__(self) -> "DemoResult":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the page."""
        self.close()

    def wait(self) -> None:
        """Return when the program is interrupted; the page is closed then."""
        try:
            threading.Event().wait()
        finally:
            self.close()

    def show(self) -> None:
        """Print the address or the folder; serve the page until a signal ends the command."""
        if self.folder is not None:
            print(printable(f"the Space is in {self.folder}; its README.md says how it is published"))
        if self.url:
            print(printable(f"demo: {self.url}  (Ctrl-C ends it)"), flush=True)
            self.wait()
