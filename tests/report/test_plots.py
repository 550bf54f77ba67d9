"""Plots: the same for the same values, whole in themselves, and with texts from data as they are."""

import re
from xml.etree import ElementTree

import matplotlib
import pytest

from finetune.report.plots import draw_svg, plot_bars, plot_histogram, plot_lines


def test_the_same_values_give_the_same_plot() -> None:
    assert plot_lines({"a": ([1, 2], [3, 4])}, "step", "loss", "x") == plot_lines(
        {"a": ([1, 2], [3, 4])}, "step", "loss", "x"
    )


@pytest.mark.parametrize(
    "text", ["a < b & c", "$x^2$", "$5 and $", r"\frac{", "_hidden", "größe 猫", "\x1b\x00"]
)
def test_texts_from_data_are_shown_as_they_are(text: str) -> None:
    svg = plot_lines({text: ([1], [1]), "b": ([1], [2])}, text, text, text)
    shown = "".join(ElementTree.fromstring(svg).itertext())
    expected = text.replace("\x1b", "\\x1b").replace("\x00", "\\x00")
    assert shown.count(expected) == 3


def test_a_plot_is_whole_in_itself_and_as_wide_as_its_place() -> None:
    svg = plot_lines({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 4])}, "step", "loss", "x")
    assert "http" not in svg
    assert ElementTree.fromstring(svg).keys() == ["class", "viewBox", "role", "aria-label"]


def test_ids_are_unique_over_plots_and_references_reach_them() -> None:
    one = plot_lines({"a": ([1, 2], [3, 4])}, "step", "loss", "x")
    other = plot_lines({"a": ([1, 2], [3, 5])}, "step", "loss", "x")
    ids = [re.findall(r' id="([^"]*)"', svg) for svg in (one, other)]
    assert not set(ids[0]) & set(ids[1])
    assert set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", one)) == set(ids[0])


def test_the_users_own_style_changes_nothing() -> None:
    plain = plot_bars(["a"], [1], "x", "y")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        assert plot_bars(["a"], [1], "x", "y") == plain
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("values", [[], [1.0], [1, 2, 2, 3], [0.5, 0.25], [0, 5000]])
def test_a_histogram_of_any_values_is_drawn(values: list[float]) -> None:
    assert plot_histogram(values, "tokens", "examples", "lengths").startswith("<svg")


def test_a_plot_of_ones_own_is_drawn() -> None:
    assert "currentColor" in draw_svg(lambda axes: axes.scatter([1], [2]), "a point")


@pytest.mark.parametrize("values", [[0.0, 0.0004, 0.001], [0.12341, 0.12345], [-1234567.0, 1.0]])
def test_the_name_of_an_axis_is_inside_the_plot(values: list[float]) -> None:
    lines = plot_lines({"": (range(len(values)), values)}, "step", "name of y", "x")
    histogram = plot_histogram([1.0] * 50_000, "length", "name of y", "x")
    for svg in (lines, histogram):
        turned = re.search(r"rotate\(-90 ([-\d.]+) [-\d.]+\)\">name of y<", svg)
        assert turned is not None
        assert float(turned[1]) >= 9, "letters reach nine points to the left of their baseline"
