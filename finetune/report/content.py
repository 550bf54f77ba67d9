"""What a report says, and its two forms: a page for the browser and text for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetune.report.page import render

if TYPE_CHECKING:
    from markupsafe import Markup

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table; numbers are formatted when it is written."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot; only the page has it."""

    svg: "Markup"
    caption: str


@dataclass(frozen=True)
class Shown:
    """One prediction."""

    id: str
    image: str
    """A data URI; empty if the image is not known."""
    details: Mapping[str, Cell]
    """Prompt, answer, reference, score and confidence, those that there are."""


@dataclass(frozen=True)
class Examples:
    """Some predictions, such as the worst."""

    title: str
    note: str
    shown: Sequence[Shown]


@dataclass(frozen=True)
class SetReport:
    """One evaluated set."""

    title: str
    about: Mapping[str, Cell]
    notes: Sequence[str]
    """What a reader must not overlook."""
    scores: Table
    tables: Sequence[Table]
    plots: Sequence[Plot]
    examples: Sequence[Examples]


@dataclass(frozen=True)
class RunReport:
    """A run."""

    title: str
    headline: str
    """The main score in a sentence."""
    about: Mapping[str, Cell]
    sets: Sequence[SetReport]
    """What the run was scored on, its own validation split first."""
    training: Mapping[str, Cell] = field(default_factory=dict)
    """Empty for a folder without a training."""
    curves: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    usage: Mapping[str, str] = field(default_factory=dict)
    """Title -> code that loads the result."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Title -> a file of the run."""


def write_html(report: RunReport) -> str:
    """Return the report as one HTML file."""
    return render("report.html.j2", report=report)


def write_markdown(report: RunReport) -> str:
    """Return the report as Markdown, without plots and images."""
    return render("report.md.j2", report=report)
