"""What the jobs of publishing return, and what of it the command line prints."""

import json
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
            print(printable(f"  {difference.verdict}: {describe_difference(difference)}"))
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
