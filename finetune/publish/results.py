"""The results of the jobs that make a result usable elsewhere."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import printable
from finetune.result import Result


@dataclass(frozen=True)
class PushResult(Result):
    """What was published, or with `dry_run=true` what would be."""

    url: str | None
    """Address of the commit; None after a dry run."""
    commit: str | None
    """Id of the commit that has the files; None after a dry run."""
    files: Mapping[str, int]
    """Path in the repository -> bytes."""
    changed: bool
    """Whether a commit was made: not if the repository had all of it already."""
    removed: tuple[str, ...] = ()
    """Files of an earlier push that this one does not have, which the commit deletes."""
    private: bool = True
    """Whether the repository is private."""
    folder: Path | None = None
    """The folder that a dry run wrote."""
    failure: str | None = None
    """Why nothing was published at the end of a training, whose result is complete."""

    @property
    def exit_code(self) -> int:
        """2 after a failure at the end of a training."""
        return 0 if self.failure is None else 2

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def show(self) -> None:
        """Print where the result is, and the files with their sizes."""
        if self.failure is not None:
            print(printable(f"error: {self.failure}"), file=sys.stderr, flush=True)
            return
        size = f"{len(self.files)} files, {format_bytes(self.bytes)}"
        if self.url is None:
            print(printable(f"would be pushed, and is in {self.folder}: {size}"))
        elif self.changed:
            print(f"pushed: {self.url} ({'private' if self.private else 'public'}; {size})")
        else:
            print(f"nothing to push: {self.url} already has all of it ({size})")
        for name, count in self.files.items():
            print(printable(f"  {format_bytes(count):>9}  {name}"))
        for name in self.removed:
            print(printable(f"    removed  {name}"))


def format_bytes(count: int) -> str:
    """Return a size in the unit that has at most three digits before the point, such as `4.2 MB`."""
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
