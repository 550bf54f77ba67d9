"""The page of a preview: examples as the model will see them, and the data in plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.example import RowFinding
from finetune.report.page import render
from finetune.report.plots import plot_bars, plot_histogram

_MOST_FINDINGS = 200
_MOST_TOKENS = 400
"""Tokens of a part that are written out."""
_MOST_BARS = 15


@dataclass(frozen=True)
class TokenRun:
    """Neighboring tokens of a sequence that have the same part, attention and label."""

    part: str
    tokens: Sequence[str]
    attention: str
    is_learned: bool

    @property
    def shown(self) -> list[str]:
        """The tokens that are written out: none where all are alike, as those of an image."""
        alike = len(self.tokens) > 3 and len(set(self.tokens)) == 1
        return [] if alike else [_mark_spaces(token) for token in self.tokens[:_MOST_TOKENS]]

    @property
    def count(self) -> int:
        """Number of the tokens."""
        return len(self.tokens)


@dataclass(frozen=True)
class PageExample:
    """One example."""

    split: str
    row: str
    place: str
    images: Sequence[str]
    """Data URIs of the images as the model sees them, with what the labels say drawn in."""
    runs: Sequence[TokenRun]

    @property
    def blocks(self) -> list[tuple[str, list[TokenRun]]]:
        """The sequence by what its tokens attend to."""
        blocks: list[tuple[str, list[TokenRun]]] = []
        for run in self.runs:
            if not blocks or blocks[-1][0] != run.attention:
                blocks.append((run.attention, []))
            blocks[-1][1].append(run)
        return blocks


@dataclass(frozen=True)
class PageSplit:
    """The numbers of a split."""

    name: str
    facts: Mapping[str, object]
    """Name -> value."""
    histograms: Mapping[str, Sequence[float]]
    """What is counted -> values; those that are all equal are left out."""
    counts: Mapping[str, Mapping[str, int]]
    """What is counted -> how often each value occurs."""


def render_preview(
    title: str,
    facts: Mapping[str, object],
    findings: Sequence[RowFinding],
    examples: Sequence[PageExample],
    splits: Sequence[PageSplit],
) -> str:
    """Return the page.

    Args:
        title: of the page.
        facts: what was looked at: name -> value.
        findings: faults and doubts.
        examples: of all splits.
        splits: their numbers.
    """
    faults = [finding for finding in findings if finding.is_fault]
    doubts = [finding for finding in findings if not finding.is_fault]
    return render(
        "preview.html.j2",
        title=title,
        facts=facts,
        faults=faults[:_MOST_FINDINGS],
        count_of_faults=len(faults),
        doubts=doubts[:_MOST_FINDINGS],
        count_of_doubts=len(doubts),
        examples=examples,
        plots=[(split, _plot(split)) for split in splits],
    )


def _plot(split: PageSplit) -> list[tuple[str, object]]:
    """Return captions and plots of a split."""
    plots: list[tuple[str, object]] = [
        ("", plot_histogram(values, name, "count", f"{split.name}: {name}"))
        for name, values in split.histograms.items()
        if len(set(values)) > 1
    ]
    for name, counts in split.counts.items():
        if not counts:
            continue
        top = sorted(counts.items(), key=lambda pair: -pair[1])[:_MOST_BARS]
        more = f", the {_MOST_BARS} most frequent of {len(counts):,}" if len(counts) > _MOST_BARS else ""
        labels = [key if key.strip() else "(empty)" for key, _ in top]
        bars = plot_bars(labels, [count for _, count in top], "count", f"{split.name}: {name}")
        plots.append((f"{name}{more}", bars))
    return plots


def _mark_spaces(token: str) -> str:
    return token.replace("\n", "↵").replace(" ", "·").replace("\t", "→")
