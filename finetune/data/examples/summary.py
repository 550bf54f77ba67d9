"""What the texts and objects of a split are: answers, prompts, classes, sizes of boxes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.codecs.boxes import decode_boxes
from finetune.data.batches.collator import Collator
from finetune.data.examples.inspection import measure_example
from finetune.data.examples.survey import Survey
from finetune.tasks.task import Row, Target, Text

MOST_ROWS = 20_000
"""Rows that are read for a summary; of a larger split as many, evenly spread."""


@dataclass
class Summary:
    """A split in numbers."""

    rows: int
    """All of its rows without a fault."""
    read: int = 0
    """Those whose texts were read for what follows."""
    answers: Counter[str] = field(default_factory=Counter)
    """The first accepted answer of each row that is not written as objects."""
    prompts: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    """Objects of each class."""
    objects: list[int] = field(default_factory=list)
    """Objects of each row that has them, or could have them."""
    boxes: list[tuple[float, float]] = field(default_factory=list)
    """Width and height of each object's box, as shares of the image."""
    not_asked: Counter[str] = field(default_factory=Counter)
    """Rows with an object of a class that their prompt does not name."""
    names_classes: bool = False
    """Whether a prompt names a class of its objects."""
    places: dict[str, list[int]] = field(default_factory=dict)
    """Kind of text that may not be meant -> indices of the rows with it."""
    tokens: list[int] = field(default_factory=list)
    """Text tokens of each example's longest answer with its prompt, BOS, newline and EOS; of all rows."""
    prompt_tokens: list[int] = field(default_factory=list)
    answer_tokens: list[int] = field(default_factory=list)
    """Of every accepted answer, with EOS."""


def summarize(survey: Survey, collator: Collator) -> Summary:
    """Read the texts of a split.

    Args:
        survey: of the split, without the rows that have faults.
        collator: that of the survey.
    """
    summary = Summary(len(survey))
    _add_lengths(summary, survey, collator.count_text_tokens("", ""))
    special = collator.list_special()
    for index, row, text, target in _read_rows(survey):
        summary.read += 1
        summary.prompts[text.prefix] += 1
        if not text.prefix.strip():
            summary.places.setdefault("empty prompt", []).append(index)
        for token in special:
            if token in text.prefix or any(token in suffix for suffix in text.suffixes):
                summary.places.setdefault(f"special token `{token}`", []).append(index)
        is_objects = "objects" in target
        if not is_objects:
            summary.answers[text.suffixes[0]] += 1
            if "<loc" in text.prefix or any("<loc" in suffix for suffix in text.suffixes):
                summary.places.setdefault("location token (`<loc....>`)", []).append(index)
        _add_objects(summary, row, text, target)
    return summary


def _add_lengths(summary: Summary, survey: Survey, around: int) -> None:
    prefixes = survey.columns["prefix"].fill_null(0).to_pylist()
    for prefix, suffixes in zip(prefixes, survey.columns["suffixes"].to_pylist(), strict=True):
        summary.prompt_tokens.append(prefix)
        summary.answer_tokens += [count + 1 for count in suffixes or ()]
        summary.tokens.append(around + prefix + max(suffixes or [0]))


def _read_rows(survey: Survey) -> Iterator[tuple[int, Row, Text, Target]]:
    count = len(survey)
    chosen = np.linspace(0, count - 1, min(count, MOST_ROWS)).round().astype(int)
    rows = survey.examples.select(chosen)
    for place, row in enumerate(rows.iterate_rows()):
        text, target = measure_example(rows, place, row, {})
        yield int(chosen[place]), row, text, target


def _add_objects(summary: Summary, row: Row, text: Text, target: Target) -> None:
    objects, size = _list_objects(row, text, target)
    if objects is None:
        return
    summary.objects.append(len(objects))
    labels = {str(obj.get("label") or "") for obj in objects} - {""}
    summary.not_asked.update(label for label in labels if label not in text.prefix)
    summary.names_classes |= any(label in text.prefix for label in labels)
    for obj in objects:
        if obj.get("label"):
            summary.classes[str(obj["label"])] += 1
        x_min, y_min, x_max, y_max = obj["box_xyxy"]
        summary.boxes.append(((x_max - x_min) / size[1], (y_max - y_min) / size[0]))


def _list_objects(
    row: Row, text: Text, target: Target
) -> tuple[list[Mapping[str, Any]] | None, tuple[int, int]]:
    """Return the objects of an example, None if it is not about objects, with the size of its image."""
    if "objects" in target:
        whole = [obj for obj in target["objects"] if not obj.get("iscrowd")]
        return whole, (target["height"], target["width"])
    if any("<loc" in suffix for suffix in text.suffixes):
        size = (1, 1)  # shares are the same in any size
        read = decode_boxes(text.suffixes[0], size).objects
        return [{"label": obj.label, "box_xyxy": obj.box_xyxy} for obj in read], size
    return None, (1, 1)
