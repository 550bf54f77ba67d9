"""The page of a comparison."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finetune.comparison.pairs import Differing, Pair, Row, describe_pair, is_real
from finetune.comparison.plots import plot_costs, plot_parallel
from finetune.comparison.table import Comparison, format_score
from finetune.report.page import format_number, render

_MOST_CARDS = 12
"""Rows with images, of those that are better in one run, in the other, and in neither."""
_MOST_ROWS = 300
_MOST_TEXT = 300

Cell = str | float | int | None


@dataclass(frozen=True)
class Card:
    """A row that two runs answered differently."""

    title: str
    image: str
    """A data URI; empty if the image is not known."""
    values: Mapping[str, Cell]


def write_page(
    comparison: Comparison,
    pair: Pair | None,
    commands: Mapping[str, str],
    load_image: Callable[[Differing], str],
) -> str:
    """Return the page.

    Args:
        comparison: the runs.
        pair: their rows, if they are two on the same rows with the same metric.
        commands: what to do with the best run -> command.
        load_image: returns the image of a row as a data URI; empty if it is not known.
    """
    names = (comparison.runs[0].name, comparison.runs[-1].name)
    head = ["run", *comparison.settings, *comparison.fields, *comparison.costs]
    rows = [
        [
            f"{run.name} (best)" if run is comparison.best else run.name,
            *("null" if (value := run.settings.get(key)) is None else value for key in comparison.settings),
            *(format_score(run.scores.get(name), run.intervals.get(name)) for name in comparison.fields),
            *(run.cost.get(name) for name in comparison.costs),
        ]
        for run in comparison.runs
    ]
    return render(
        "compare.html.j2",
        title=f"{len(comparison.runs)} runs" if pair is None else f"{names[0]} and {names[1]}",
        head=head,
        rows=rows,
        main=comparison.main,
        best=comparison.best,
        commands=commands,
        notes=comparison.notes,
        missing=comparison.missing,
        plots=plot_costs(comparison),
        parallel=plot_parallel(comparison),
        verdict=[] if pair is None else describe_pair(pair, names, comparison.main),
        differences=[] if pair is None else _list_differences(pair),
        groups=[] if pair is None else _show_rows(pair, names, load_image),
        others=[] if pair is None else _list_rows(pair),
        names=names,
    )


def _list_differences(pair: Pair) -> list[list[Cell]]:
    return [
        [
            field,
            f"{one.value:+.4g}",
            f"{one.low:+.4g} to {one.high:+.4g}",
            "yes" if is_real(one) else "may be chance",
        ]
        for field, one in pair.differences.items()
    ]


def _show_rows(
    pair: Pair, names: tuple[str, str], load_image: Callable[[Differing], str]
) -> list[tuple[str, list[Card]]]:
    """Return the rows that differ most, in groups."""
    groups: list[tuple[str, Sequence[Differing]]] = [
        (f"Better in {names[1]}", [one for one in pair.differing if one.gain > 0]),
        (f"Better in {names[0]}", [one for one in pair.differing if one.gain < 0]),
        ("Different, with the same score", [one for one in pair.differing if one.gain == 0]),
    ]
    return [
        (
            f"{title} ({len(members):,})",
            [_show_row(one, names, load_image(one)) for one in members[:_MOST_CARDS]],
        )
        for title, members in groups
        if members
    ]


def _show_row(one: Differing, names: tuple[str, str], image: str) -> Card:
    first, second = (_cut(str(row.get("prediction", ""))) for row in (one.first, one.second))
    values: dict[str, Cell] = {
        "prompt": _cut(str(one.first.get("prefix", ""))),
        "reference": _name_truth(one.first),
    }
    if one.second.get("prefix") != one.first.get("prefix"):
        values[f"prompt of {names[1]}"] = _cut(str(one.second.get("prefix", "")))
    values |= {names[0]: _with_score(first, one.first), names[1]: _with_score(second, one.second)}
    return Card(" ".join(one.key), image, values)


def _with_score(text: str, row: Row) -> str:
    score = row.get("score")
    return f"{text}   ({format_number(score)})" if isinstance(score, int | float) else text


def _list_rows(pair: Pair) -> list[list[Cell]]:
    return [
        [
            " ".join(one.key),
            _name_truth(one.first),
            _cut(str(one.first.get("prediction", ""))),
            _cut(str(one.second.get("prediction", ""))),
            f"{one.gain:+.4g}",
        ]
        for one in pair.differing[:_MOST_ROWS]
    ]


def _name_truth(row: Row) -> str:
    references = row.get("references")
    if isinstance(references, list):
        return _cut(" | ".join(map(str, references)))
    return _cut(", ".join(str(one.get("label") or "object") for one in row.get("objects") or ()))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."
