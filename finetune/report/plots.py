"""Plots as SVG inside a page: as wide as their place, in the page's colors, the same for the same values.

matplotlib is imported when the first plot is drawn, without pyplot and its windows.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import printable

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

COLORS = ("#2a87c8", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#7a6ff0", "#56b4e9", "#8a8a8a")
"""Of the lines of a plot: Okabe and Ito's, as light or dark as both a white and a black page need."""

INK = "#010203"
"""Stands for the color of the page's text, in a light and a dark page."""

WIDTH = 5.2
"""Inches. At 72 units each a phone shows a plot in its own size, so that its text is readable."""

_STYLE: dict[Any, object] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "svg.hashsalt": "finetune",
    "text.color": INK,
    "text.parse_math": False,  # labels come from data, where a dollar is a dollar
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw_svg(
    draw: Callable[["Axes"], object], label: str, height: float = 2.9, *, fits: bool = True
) -> "Markup":
    """Return a plot as an inline `<svg>`.

    Args:
        draw: draws into the axes that it is given; texts are taken as written, without mathematics.
        label: what the plot shows, for those who do not see it.
        height: inches; the width is `WIDTH`.
        fits: measure all texts and make room for them, which takes twice the time. False: the usual room,
            for numbers at both axes.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser has a font for it: this one only measures.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        matplotlib.rcdefaults()  # not the user's own style
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained" if fits else None)
        FigureCanvasSVG(figure)
        if not fits:
            figure.subplots_adjust(0.14, 0.5 / height, 0.97, 1 - 0.12 / height)
        axes = figure.add_subplot()
        axes.set_prop_cycle(color=COLORS)
        draw(axes)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue(), label)


def plot_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, label: str
) -> "Markup":
    """Return a plot of lines; those of at most 30 points have their points marked.

    Args:
        lines: name -> positions and values.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        label: what the plot shows.
    """

    def draw(axes: "Axes") -> None:
        for name, (positions, values) in lines.items():
            marker = "o" if len(positions) <= 30 else ""
            axes.plot(positions, values, label=plain(name), marker=marker, markersize=3.5)
        if len(lines) > 1:
            axes.legend()
        axes.set(xlabel=plain(x), ylabel=plain(y))

    return draw_svg(draw, label)


def plot_bars(names: Sequence[str], values: Sequence[float], x: str, label: str) -> "Markup":
    """Return horizontal bars, the first one on top, each with its value.

    Args:
        names: one per bar; long ones are cut.
        values: length of each bar.
        x: name of the horizontal axis.
        label: what the plot shows.
    """

    def draw(axes: "Axes") -> None:
        places = range(len(names))
        bars = axes.barh(places, values, color=COLORS[0])
        axes.bar_label(bars, fmt="%.4g", padding=3)
        axes.set_yticks(places, [plain(name) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.set_xlabel(plain(x))

    return draw_svg(draw, label, 0.9 + 0.26 * len(names))


def plot_histogram(values: Sequence[float], x: str, y: str, label: str, bins: int = 30) -> "Markup":
    """Return a histogram; whole numbers in a small range have a bar each.

    Args:
        values: what is counted.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        label: what the plot shows.
        bins: most bars.
    """

    def draw(axes: "Axes") -> None:
        whole = all(float(value).is_integer() for value in values)
        if values and whole and max(values) - min(values) < bins:
            edges = [edge - 0.5 for edge in range(int(min(values)), int(max(values)) + 2)]
            axes.hist(values, bins=edges, color=COLORS[0], rwidth=0.9)
        else:
            axes.hist(values, bins=bins, color=COLORS[0])
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=plain(x), ylabel=plain(y))

    return draw_svg(draw, label, 2.2)


def plain(text: str, most: int = 32) -> str:
    """Return a text of data on one line, and not too long for a plot."""
    line = printable(" ".join(text.split()))
    # A leading underscore would hide a line from the legend.
    line = f" {line}" if line.startswith("_") else line
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _inline(svg: str, label: str) -> "Markup":
    """Return matplotlib's file as a part of a page."""
    from markupsafe import Markup, escape

    body = svg[svg.index("<svg") :]
    head, _, body = body.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box is not None, "matplotlib writes a viewBox"
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).replace(INK, "currentColor")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    # An id has to be unique in a page of many plots.
    salt = hashlib.sha256(body.encode()).hexdigest()[:8]
    body = re.sub(r' id="([^"]*)"', lambda one: f' id="{salt}{one[1]}"' if one[1] in used else "", body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{salt}", body).replace("xlink:href", "href")
    start = f'<svg class="plot" viewBox="{box[1]}" role="img" aria-label="{escape(printable(label))}">'
    return Markup(start + body.strip())  # matplotlib escapes its texts
