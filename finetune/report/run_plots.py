"""The plots of a report: learning curves, calibration, and what is taken for what."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finetune.report.content import Plot
from finetune.report.plots import COLORS, INK, draw_svg, plain, plot_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 2000
"""Of one line. A longer history is thinned: no page is as wide."""


def plot_history(history: Sequence[Mapping[str, float]], field: str) -> list[Plot]:
    """Return the curves of a training: losses, learning rate, and the main score.

    Args:
        history: what was logged, in the order of the steps: `step` with `loss` and `learning_rate`, or with
            the fields of an evaluation, whose names begin with `eval_`.
        field: the main field of the metric.
    """
    losses = {"training": _line(history, "loss"), "validation": _line(history, "eval_loss")}
    losses = {name: line for name, line in losses.items() if line[0]}
    plots = []
    if losses:
        plots.append(Plot(plot_lines(losses, "step", "loss", "Loss by step"), "Loss."))
    score = _line(history, f"eval_{field}")
    if len(score[0]) > 1:
        title = f"{field} on the validation split by step"
        plots.append(Plot(plot_lines({field: score}, "step", field, title), f"{title}."))
    rate = _line(history, "learning_rate")
    if len(rate[0]) > 1:
        plots.append(
            Plot(plot_lines({"": rate}, "step", "learning rate", "Learning rate by step"), "Learning rate.")
        )
    return plots


def _line(history: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    entries = [entry for entry in history if name in entry and "step" in entry]
    entries = entries[:: max(1, len(entries) // _MOST_POINTS)]
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]


def plot_reliability(bins: Sequence[tuple[float, float, int]], error: float) -> Plot:
    """Return the accuracy of answers of about the same confidence.

    Args:
        bins: mean confidence, mean accuracy (0 to 1) and number of answers.
        error: expected calibration error, 0 to 1.
    """

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", alpha=0.6)
        confidences, accuracies, counts = zip(*bins, strict=True)
        largest = max(counts)
        axes.plot(confidences, accuracies, color=COLORS[0], linewidth=1.2)
        axes.scatter(
            confidences, accuracies, s=[20 + 140 * count / largest for count in counts], color=COLORS[0]
        )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="confidence", ylabel="accuracy")

    caption = (
        "Reliability: on the dashed line confidence is what answers are worth; below it they are too "
        f"confident. Larger points stand for more answers. Expected calibration error {error:.3f}."
    )
    return Plot(draw_svg(draw, "Accuracy by confidence", fits=False), caption)


def plot_coverage(coverage: Sequence[float], accuracy: Sequence[float]) -> Plot:
    """Return the accuracy of the most confident answers, by the share of them that is kept."""

    def draw(axes: "Axes") -> None:
        step = max(1, len(coverage) // _MOST_POINTS)
        # The last point is the score of all answers.
        axes.plot([*coverage[::step], coverage[-1]], [*accuracy[::step], accuracy[-1]], color=COLORS[0])
        axes.set(
            xlim=(0, 1.02), xlabel="coverage: share of answers, most confident first", ylabel="accuracy"
        )
        axes.set_ylim(top=1 + 0.04 * (1 - min(accuracy)))

    text = "Accuracy against coverage: what answers are worth if those of low confidence are left out."
    return Plot(draw_svg(draw, "Accuracy against coverage", fits=False), text)


def plot_confusion(
    truths: Sequence[str], predictions: Sequence[str], counts: Sequence[Sequence[int]], caption: str
) -> Plot:
    """Return a table of counts, darker where a larger share of the row is.

    Args:
        truths: names of the rows.
        predictions: names of the columns.
        counts: one list for each row.
        caption: below the plot.
    """

    def draw(axes: "Axes") -> None:
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        # Not `imshow`, which would put a raster image into the page.
        edges = [[place - 0.5 for place in range(len(side) + 1)] for side in (predictions, truths)]
        axes.pcolormesh(*edges, shares, cmap="Blues", vmin=0, vmax=1)
        axes.invert_yaxis()
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                if count:
                    color = "#ffffff" if shares[y][x] > 0.5 else "#0b2e4f"
                    axes.text(x, y, f"{count}", ha="center", va="center", color=color, fontsize=9)
        narrow = sum(len(name) for name in predictions) > 40
        names = [plain(name, 16) for name in predictions]
        if narrow:
            axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(truths)), [plain(name, 16) for name in truths])
        axes.tick_params(length=0, labelsize=9.5)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="true")

    return Plot(draw_svg(draw, caption, 1.2 + 0.27 * len(truths)), caption)
