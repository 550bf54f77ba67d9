"""Plots of a comparison: scores against costs, and settings beside scores."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finetune.comparison.runs import LEARNING, FinishedRun, Value
from finetune.comparison.table import Comparison
from finetune.report.plots import COLORS, draw_svg, plain

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_MOST_NAMES = 12
"""Runs whose names still fit into a plot."""
_MOST_AXES = 8
_MOST_TICKS = 6


def plot_costs(comparison: Comparison) -> list[tuple["Markup", str]]:
    """Return the main score against each cost in which the runs differ, with captions."""
    plots = []
    for cost in comparison.costs:
        runs = [run for run in comparison.runs if cost in run.cost and comparison.main in run.scores]
        values = [run.cost[cost] for run in runs]
        if len(set(values)) > 1:
            caption = f"{comparison.main} against {cost}; lines are 95 % intervals."
            plots.append((_scatter(runs, comparison.main, cost), caption))
    return plots


def _scatter(runs: Sequence[FinishedRun], field: str, cost: str) -> "Markup":
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    def draw(axes: "Axes") -> None:
        for number, run in enumerate(runs):
            color, place = COLORS[number % len(COLORS)], (run.cost[cost], run.scores[field])
            interval = run.intervals.get(field)
            if interval is not None:
                axes.plot([place[0]] * 2, [interval.low, interval.high], color=color, alpha=0.5)
            axes.plot(*place, marker="o", linestyle="", color=color)
            if len(runs) <= _MOST_NAMES:
                axes.annotate(
                    plain(run.name),
                    place,
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=9,
                    color=color,
                )
        axes.margins(x=0.15, y=0.12)
        if cost == LEARNING:
            axes.set_xscale("log")
            # The default labels are formulas, which are not parsed.
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=plain(cost), ylabel=plain(field))

    return draw_svg(draw, f"{field} against {cost}")


def plot_parallel(comparison: Comparison) -> "Markup | None":
    """Return the settings that differ and the main score as parallel axes, a line for each run.

    None for fewer than two runs, or if no setting differs.
    """
    runs = [run for run in comparison.runs if comparison.main in run.scores]
    keys = list(comparison.settings)[: _MOST_AXES - 1]
    if len(runs) < 2 or not keys:
        return None
    scales = [_Scale([run.settings.get(key) for run in runs]) for key in keys]
    scales.append(_Scale([run.scores[comparison.main] for run in runs]))
    names = [*keys, comparison.main]

    def draw(axes: "Axes") -> None:
        for place, scale in enumerate(scales):
            axes.axvline(place, color=COLORS[-1], linewidth=0.8)
            for height, text in scale.ticks():
                axes.annotate(
                    plain(text, 16), (place, height), xytext=(4, 2), textcoords="offset points", fontsize=9
                )
        for number in range(len(runs)):
            color = COLORS[number % (len(COLORS) - 1)]
            axes.plot([scale.places[number] for scale in scales], color=color, marker="o", markersize=4)
        # Every other name stands lower, so that long ones do not run into each other.
        labels = [("\n" if place % 2 else "") + plain(name, 26) for place, name in enumerate(names)]
        axes.set_xticks(range(len(names)), labels, fontsize=9)
        axes.set_yticks([])
        axes.set_ylim(-0.08, 1.12)
        axes.set_xlim(-0.15, len(names) - 0.6)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    return draw_svg(draw, "Settings and score of each run", 3.2)


class _Scale:
    """One axis: numbers by size, on a logarithmic scale where they span two decades; others by name.

    Args:
        values: of the runs.
    """

    def __init__(self, values: Sequence[Value]) -> None:
        numbers = [
            value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        self.values = values
        if len(numbers) == len(values):
            is_wide = min(numbers) > 0 and max(numbers) / min(numbers) >= 100
            heights = [math.log(one) if is_wide else float(one) for one in numbers]
        else:
            order: Mapping[str, int] = {
                name: place for place, name in enumerate(sorted({str(value) for value in values}))
            }
            heights = [float(order[str(value)]) for value in values]
        low, span = min(heights), max(heights) - min(heights)
        self.places = [(height - low) / span if span else 0.5 for height in heights]
        """Height of each run, 0 to 1."""

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights with their values, no more than can be read."""
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in self.values]
        marks = sorted(dict(zip(self.places, texts, strict=True)).items())
        if len(marks) <= _MOST_TICKS:
            return marks
        return [marks[round(place * (len(marks) - 1) / (_MOST_TICKS - 1))] for place in range(_MOST_TICKS)]
