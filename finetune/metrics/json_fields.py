"""Fields of JSON that is read from an image, such as the items and the total of a receipt."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from finetune.metrics.fields import parse_references, read_prediction

Fields = Counter[tuple[str, str]]
"""Path and value of each field, such as `items.price` and `7.20`."""


class Counts(NamedTuple):
    """Fields of one or more rows."""

    right: int
    predicted: int
    expected: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in percent; 100 where nothing is expected or predicted."""
        total = self.predicted + self.expected
        return 100.0 * 2 * self.right / total if total else 100.0


def read_fields(text: str) -> Fields | None:
    """Return the fields of a JSON object or list; None if the text is not JSON.

    The order of keys and of the items of a list does not matter, nor do white space and whether a number
    is written as a text.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fields: Fields = Counter()
    if not isinstance(value, dict | list):
        return None
    try:
        _collect(value, "", fields)
    except RecursionError:
        return None
    return fields


def _collect(value: object, path: str, fields: Fields) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _collect(item, f"{path}.{key}" if path else str(key), fields)
    elif isinstance(value, list):
        for item in value:
            _collect(item, path, fields)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        fields[path, " ".join(text.split())] += 1


def count_fields(prediction: Fields | None, reference: Fields) -> Counts:
    """Count the fields of a prediction that the reference has; a prediction that is not JSON has none."""
    predicted = prediction or Counter()
    return Counts((predicted & reference).total(), predicted.total(), reference.total())


@dataclass(frozen=True)
class JsonFields:
    """F1 of the fields over the whole set, answers that are JSON, and wholly right ones, in percent.

    A field is the path of keys and its value. Source: the field-level F1 of Donut (arXiv 2111.15664,
    section 3.1).
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "fields_f1": True,
        "valid_json": True,
        "all_fields": True,
    }

    def score(self, row: Mapping[str, object]) -> float:
        """Return the row's F1."""
        return self._count(row).f1

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `fields_f1`, `valid_json` and `all_fields`."""
        counts = [self._count(row) for row in rows]
        valid = [read_fields(read_prediction(row)) is not None for row in rows]
        whole = [
            count.right == count.predicted == count.expected and is_json
            for count, is_json in zip(counts, valid, strict=True)
        ]
        total = Counts(*map(sum, zip(*counts, strict=True)))
        return {
            "fields_f1": total.f1,
            "valid_json": 100.0 * sum(valid) / len(rows),
            "all_fields": 100.0 * sum(whole) / len(rows),
        }

    def _count(self, row: Mapping[str, object]) -> Counts:
        """Return the counts of the row against the reference that it is nearest to."""
        prediction = read_fields(read_prediction(row))
        expected = 'be a JSON object or list, such as {"total": "7.20"}'
        references = parse_references(row, read_fields, expected)
        return max((count_fields(prediction, each) for each in references), key=lambda counts: counts.f1)
