"""What hints at input of another kind: a set that can be scored, with a score that cannot be meant."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from finetune.errors import describe
from finetune.metrics.fields import name_row


class Level(Enum):
    """What follows from a doubt."""

    note = "note"
    """It is meant, and changes what a field says."""
    warning = "warning"
    """It may be meant."""
    mistake = "mistake"
    """It cannot be meant: a score would say nothing."""


@dataclass(frozen=True)
class Doubt:
    """One thing that is probably not meant."""

    text: str
    """With the number of cases and an example."""
    level: Level = Level.warning


@dataclass
class Tally:
    """How often something was seen, and where first."""

    count: int = 0
    example: str = ""
    """The first case, as the end of a message."""

    def add(self, row: Mapping[str, object], value: object) -> None:
        """Count one case.

        Args:
            row: where it is.
            value: what was seen.
        """
        if not self.count:
            name = name_row(row)
            self.example = f"{name[0].lower()}{name[1:]}" if name.startswith(("Row ", "A row")) else name
            self.example += f": {describe(value)}"
        self.count += 1
