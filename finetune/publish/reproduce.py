"""Compares a result with its repetition: equal, within the interval, or different and in what.

Where every answer is the same, every score that follows from the answers must be the same number, and one
that follows from their probabilities nearly so. Where answers differ, a score may be anywhere in the 95 %
interval of the first one. Data, base, weights, settings and versions must be the same in any case; where
they are kept may change.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from finetune.publish.record import Record, ScoredSplit

_PROBABLE = re.compile(r"(.*\.)?(confidence|loss|ap\d*|a[pr]_\w+)(\.\w+)?")
"""Fields that follow from probabilities, which differ a little between processors."""
_ROUNDING = 1e-3
_EXACT = 1e-9
_MOST_ROWS = 5
_COUNTED = {"package", "setting"}


class Verdict(StrEnum):
    """How a repetition went."""

    equal = "equal"
    within = "within the interval"
    different = "different"


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same."""

    what: str
    before: Any
    """In the first result; None where it has none."""
    now: Any
    verdict: Verdict = Verdict.different
    note: str = ""


@dataclass
class Comparison:
    """A result and its repetition, side by side."""

    differences: list[Difference] = field(default_factory=list)
    """Those that decide first, then scores inside their intervals."""
    equal: list[str] = field(default_factory=list)
    """What is the same, such as `data of validation`."""
    places: list[Difference] = field(default_factory=list)
    """Other folders or names for the same things, and other hardware: they do not decide."""
    not_compared: list[str] = field(default_factory=list)
    """What could not be compared, and why."""
    following: list[Difference] = field(default_factory=list)
    """Scores without an interval of their own, which differ because answers do: they do not decide."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the differences."""
        found = {difference.verdict for difference in self.differences}
        return next((one for one in (Verdict.different, Verdict.within) if one in found), Verdict.equal)


def compare_records(card: Record, again: Record, weights: Mapping[str, str] | None) -> Comparison:
    """Compare a result with its repetition.

    Args:
        card: the first result.
        again: its repetition.
        weights: digests of the weights that were scored; None if they were trained again.
    """
    result = Comparison()
    _compare_data(result, card, again, trained=weights is None)
    if weights is None:
        result.not_compared.append("weights: they were trained again")
    elif card.weights and card.weights.keys().isdisjoint(weights):
        files = (", ".join(sorted(names)) or "nothing" for names in (card.weights, weights))
        result.not_compared.append("weights: the result was written as {}, and here is {}".format(*files))
    else:
        _compare_facts(result, "weights", card.weights, dict(weights))
    if weights and not any(name.startswith("adapter_") for name in weights):
        result.not_compared.append("base: the result has all of its weights itself")
    else:
        _compare_facts(result, "base", _describe_base(card), _describe_base(again))
    versions = [
        {"python": one.environment.get("python"), **(one.environment.get("packages") or {})}
        for one in (card, again)
    ]
    _compare_facts(result, "package", *versions)
    _compare_facts(result, "setting", card.settings, again.settings)
    for split in card.splits:
        if split in again.splits:
            _compare_split(result, split, card.splits[split], again.splits[split], card.is_merged)
        else:
            result.not_compared.append(f"scores of {split}: the data have no such split here")
    for what in ("gpus", "processes"):
        first, second = card.environment.get(what), again.environment.get(what)
        if None not in (first, second) and first != second:
            result.places.append(Difference(what, first, second))
    for key in sorted(card.places.keys() | again.places.keys()):
        before, now = card.places.get(key), again.places.get(key)
        if before != now:
            result.places.append(Difference(key, before, now))
    result.differences.sort(key=lambda difference: difference.verdict != Verdict.different)
    return result


def _describe_base(record: Record) -> dict[str, Any]:
    """Return what identifies the weights of a base, wherever they are."""
    base = record.environment.get("base") or {}
    return {name: base.get(name) for name in ("commit", "fingerprint")}


def _compare_data(result: Comparison, card: Record, again: Record, *, trained: bool) -> None:
    for split in dict.fromkeys([*card.data, *card.splits]):
        what, before, now = f"data of {split}", card.data.get(split), again.data.get(split)
        if before is None:
            result.not_compared.append(f"{what}: the result has no digest of it")
        elif now is None:
            why = "it was not read" if trained or split != "train" else "only train=true reads it"
            result.not_compared.append(f"{what}: {why}")
        elif before.get("images") != now.get("images"):
            result.not_compared.append(f"{what}: of one of them only the sizes of the images were read")
        elif before == now:
            result.equal.append(what)
        else:
            first, second = before.get("digest"), now.get("digest")
            if before.get("rows") != now.get("rows"):
                first, second = f"{before.get('rows')} rows", f"{now.get('rows')} rows"
            result.differences.append(Difference(what, first, second))


def _compare_facts(result: Comparison, what: str, before: Any, now: Any) -> None:
    """Compare what either side says of base, weights, packages or settings, key by key."""
    if not isinstance(before, Mapping) or not any(value is not None for value in before.values()):
        result.not_compared.append(f"{what}: the result does not say it")
        return
    now = now if isinstance(now, Mapping) else {}
    same = 0
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key):
            same += 1
        elif what == "base" and (before.get(key) is None or now.get(key) is None):
            result.not_compared.append(f"{what} {key}: only one side says it")
        else:
            result.differences.append(Difference(f"{what} {key}", before.get(key), now.get(key)))
    if same:
        result.equal.append(f"{same} {what}s" if what in _COUNTED else what)


def _compare_split(
    result: Comparison, split: str, card: ScoredSplit, again: ScoredSplit, is_merged: bool
) -> None:
    are_same = _compare_answers(result, split, card, again)
    # Intervals of other numbers of samples are others.
    same_intervals = {
        name
        for name in card.intervals.keys() & again.intervals.keys()
        if card.intervals[name][2:] == again.intervals[name][2:]
    }
    before, now = (dict(_list_numbers(one, same_intervals)) for one in (card, again))
    same = 0
    for key in sorted(before.keys() | now.keys()):
        first, second = before.get(key), now.get(key)
        if first is None or second is None:
            result.differences.append(Difference(f"{split} {key}", first, second))
            continue
        tolerance = _ROUNDING if _PROBABLE.fullmatch(key) else _EXACT
        if math.isclose(first, second, rel_tol=tolerance, abs_tol=_EXACT):
            same += 1
        elif is_merged and are_same and _PROBABLE.fullmatch(key):
            note = "the scores are those before the adapter was merged"
            result.differences.append(Difference(f"{split} {key}", first, second, Verdict.within, note))
        elif (difference := _judge(f"{split} {key}", key, first, second, card, are_same)) is not None:
            result.differences.append(difference)
        else:
            result.following.append(Difference(f"{split} {key}", first, second, Verdict.within))
    if same:
        result.equal.append(f"{same} scores of {split}")


def _judge(
    what: str, key: str, first: float, second: float, card: ScoredSplit, are_same: bool | None
) -> Difference | None:
    """Return what a difference of a score means; None if it only follows from others."""
    if are_same:
        note = "every answer is the same" if not _PROBABLE.fullmatch(key) else ""
        return Difference(what, first, second, note=note)
    interval = card.intervals.get(key)
    if interval is not None:
        low, high = interval[:2]
        inside = low <= second <= high
        note = f"95 % interval {low:.4g} to {high:.4g}"
        return Difference(what, first, second, Verdict.within if inside else Verdict.different, note)
    # Of a group, of a part, or of the probabilities: there is no interval to judge it by.
    has_interval = bool(card.intervals)
    if key.startswith("intervals.") or (has_interval and ("." in key or _PROBABLE.fullmatch(key))):
        return None
    is_judged = key == "n" or not has_interval
    return Difference(what, first, second, Verdict.different if is_judged else Verdict.within)


def _compare_answers(result: Comparison, split: str, card: ScoredSplit, again: ScoredSplit) -> bool | None:
    """Return whether every answer is the same; None if that is not known."""
    if card.rows is not None and again.rows is not None:
        ids = [key for key in {**card.rows, **again.rows} if card.rows.get(key) != again.rows.get(key)]
        for key in ids[:_MOST_ROWS]:
            result.differences.append(
                Difference(
                    f"{split} answer `{key}`", card.rows.get(key), again.rows.get(key), Verdict.within
                )
            )
        if len(ids) > _MOST_ROWS:
            total = f"{len(card.rows)} in all"
            more = Difference(f"{split} answers", total, f"{len(ids)} of them differ", Verdict.within)
            result.differences.append(more)
    if card.answers is None:
        result.not_compared.append(f"answers to {split}: the result has no digest of them")
        return None
    if card.answers == again.answers:
        result.equal.append(f"every answer to {split}")
        return True
    if card.rows is None:
        result.differences.append(
            Difference(f"{split} answers", card.answers, again.answers, Verdict.within, "some differ")
        )
    return False


def _list_numbers(split: ScoredSplit, intervals: Collection[str]) -> Iterator[tuple[str, float]]:
    yield from _flatten(split.scores)
    for name in intervals:
        ends = zip(("low", "high"), split.intervals[name], strict=False)
        yield from ((f"intervals.{name}.{end}", value) for end, value in ends)


def _flatten(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
