"""What the jobs of publishing return, and what of it the command line prints."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import printable
from finetune.publish.reproduce import Comparison, Difference, Verdict
from finetune.result import Result


@dataclass(frozen=True)
class MergeResult(Result):
    """A merged model."""

    folder: Path
    """A plain checkpoint of transformers, with its processor."""
    difference: float
    """Greatest difference of a logit between the merged model and the adapter on the base that it was
    merged into, both computed in float32."""
    agreement: float
    """Share of the compared examples that the merged model answers like the run, percent."""
    examples: int
    """Number of the compared examples."""


@dataclass(frozen=True)
class ReproduceResult(Result):
    """A result and its repetition."""

    card: str
    """Folder or name of the first result."""
    folder: Path
    """The new run or evaluation, with `reproduce.json`."""
    comparison: Comparison
    trained: bool
    """Whether it was trained again."""

    @property
    def verdict(self) -> Verdict:
        """`equal`, `within the interval` or `different`."""
        return self.comparison.verdict

    @property
    def exit_code(self) -> int:
        """1 where something is different."""
        return int(self.verdict == Verdict.different)

    def show(self) -> None:
        """Print the verdict, and what differs."""
        done = "trained and scored" if self.trained else "scored"
        print(printable(f"{self.card}, {done} again: {self.verdict}"))
        for difference in self.comparison.differences:
            # Answers, and scores without an interval, are not in one.
            is_judged = difference.verdict == Verdict.different or "interval" in difference.note
            word = difference.verdict if is_judged else "differs"
            print(printable(f"  {word}: {describe_difference(difference)}"))
        if following := self.comparison.following:
            print(f"  differ too, because answers do: {len(following)} scores (reproduce.json has them)")
        if self.comparison.equal:
            print(printable(f"  equal: {', '.join(self.comparison.equal)}"))
        for difference in self.comparison.places:
            print(printable(f"  in another place: {describe_difference(difference)}"))
        for what in self.comparison.not_compared:
            print(printable(f"  not compared: {what}"))
        print(printable(f"{self.folder}/reproduce.json has the same"), flush=True)


def describe_difference(difference: Difference) -> str:
    """Return a difference as one line."""
    note = f" ({difference.note})" if difference.note else ""
    return (
        f"{difference.what}: {_write(difference.before)} in the card, {_write(difference.now)} here{note}"
    )


def _write(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}..."


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
