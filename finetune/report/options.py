"""Options of the report.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from dataclasses import dataclass

from finetune.option import Range, option


@dataclass
class PublishedScore:
    """A score from a paper, which a report shows next to the run's."""

    field: str
    """Field of the metric."""
    value: float
    """The score, in the metric's unit."""
    model: str
    """The model that reached it."""
    resolution: int
    """Side of its images, pixels."""
    split: str
    """What it was scored on, and what else differs from a run of the recipe."""
    source: str
    """The paper and its table."""
    group: str | None = None
    """The group of the rows; `null`: all rows."""


@dataclass
class ReportConfig:
    """The page `report.html` at the end of a run or an evaluation, and `report.md`."""

    examples: int = option(6, Range(0, 100))
    """Most predictions to show of each kind: worst, random and best. A new page has images of those that
    the run chose."""
    resamples: int = option(1000, Range(100, 100_000))
    """Samples of the bootstrap, from which the 95 % intervals come."""
    interval_seconds: float = option(5.0, Range(0, 86_400))
    """Most seconds for the intervals of scores that are not means, such as AP; 0: only means have one."""
