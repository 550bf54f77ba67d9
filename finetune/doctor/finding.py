"""One finding about the machine, with its remedy."""

from dataclasses import dataclass
from enum import StrEnum

_WIDTHS = (7, 26)
"""Of the columns of levels and subjects, in characters."""


class Level(StrEnum):
    """How a finding is to be taken."""

    ok = "ok"
    """Works."""
    note = "note"
    """Works, or is not needed for everything; good to know."""
    problem = "problem"
    """Some runs would fail, or give other results."""


@dataclass(frozen=True)
class Finding:
    """What one check found out."""

    subject: str
    """What was checked, in a few words."""
    level: Level
    text: str
    """What was found."""
    remedy: str = ""
    """What to do about it; empty if there is nothing to do."""


def ok(subject: str, text: str) -> Finding:
    """Return a finding that needs no attention."""
    return Finding(subject, Level.ok, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that is good to know."""
    return Finding(subject, Level.note, text, remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that has to be mended."""
    return Finding(subject, Level.problem, text, remedy)


def format_finding(finding: Finding) -> str:
    """Lay a finding out as text: a line, with the remedy below."""
    line = f"{finding.level:<{_WIDTHS[0]}}  {finding.subject:<{_WIDTHS[1]}}  {finding.text}"
    return f"{line}\n{'':{sum(_WIDTHS) + 2}}  -> {finding.remedy}" if finding.remedy else line
