"""What is taken for what: answers, and the classes of objects."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from finetune.metrics.fields import read_prediction, read_references
from finetune.metrics.matching import Matches

OTHER = "(other)"
MISSED = "(missed)"
INVENTED = "(nothing there)"


@dataclass(frozen=True)
class Confusion:
    """Counts of what is true and what was predicted."""

    truths: list[str]
    predictions: list[str]
    counts: list[list[int]]
    """One list for each of `truths`, one number for each of `predictions`."""
    mistakes: list[tuple[str, str, int]]
    """What was true, what was predicted and how often, the most frequent first."""


def confuse_answers(rows: Iterable[Mapping[str, object]], most: int = 12) -> Confusion:
    """Count true and predicted answers.

    An answer that is accepted stands for itself; of an answer that is not, the most frequent reference is
    the true one.

    Args:
        rows: with `prediction` and `references`.
        most: answers in the table, the most frequent ones; the others are counted together.

    Raises:
        UserError: a row has not both.
    """
    return _confuse((_pair(read_references(row), read_prediction(row)) for row in rows), most)


def confuse_labels(matches: Iterable[Matches], most: int = 12) -> Confusion:
    """Count the labels of true and predicted objects at the same place.

    Args:
        matches: of each row.
        most: labels in the table, the most frequent ones; the others are counted together.
    """
    pairs = (
        pair
        for one in matches
        for pair in (
            *one.found,
            *((label, MISSED) for label in one.missed),
            *((INVENTED, label) for label in one.invented),
        )
    )
    return _confuse(pairs, most)


def _pair(references: Sequence[str], prediction: str) -> tuple[str, str]:
    if prediction in references:
        return prediction, prediction
    return Counter(references).most_common(1)[0][0], prediction


def _confuse(pairs: Iterable[tuple[str, str]], most: int) -> Confusion:
    counted = Counter(pairs)
    frequency = Counter[str]()
    for (true, predicted), count in counted.items():
        frequency[true] += count
        frequency[predicted] += count
    known = sorted(frequency, key=lambda name: (-frequency[name], name))
    special = {MISSED, INVENTED}
    kept = sorted([name for name in known if name not in special][:most], key=_natural)
    shown = Counter[tuple[str, str]]()
    for (true, predicted), count in counted.items():
        shown[_group(true, kept, special), _group(predicted, kept, special)] += count
    truths = _order(kept, {true for true, _ in shown}, INVENTED)
    predictions = _order(kept, {predicted for _, predicted in shown}, MISSED)
    return Confusion(
        truths,
        predictions,
        [[shown[true, predicted] for predicted in predictions] for true in truths],
        sorted(
            ((true, predicted, count) for (true, predicted), count in counted.items() if true != predicted),
            key=lambda one: (-one[2], one[:2]),
        ),
    )


def _group(name: str, kept: Sequence[str], special: set[str]) -> str:
    return name if name in kept or name in special else OTHER


def _order(kept: list[str], used: set[str], last: str) -> list[str]:
    """Return the names of one side: answers in the order of both sides, what is none of them at the end."""
    return [*kept, *(name for name in (OTHER, last) if name in used and name not in kept)]


def _natural(name: str) -> tuple[bool, float, str]:
    """Sort numbers by value, before other names."""
    number = name.isascii() and name.isdigit() and len(name) < 16
    return (not number, float(name) if number else 0.0, name)
