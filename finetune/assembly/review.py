"""Every fault in the data of a run, collected where `build_data` would raise the first one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from transformers import PaliGemmaProcessor

from finetune.assembly.data import (
    LONGEST_REFERENCE,
    build_collators,
    build_train_examples,
    build_validation,
)
from finetune.assembly.empty_answers import EmptyAnswer, check_together
from finetune.assembly.sources import build_task, load_test, read_splits
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.data.batches.options import Overflow
from finetune.data.cache import find_places
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.decoding import Decoded, count_cores, decode_images
from finetune.data.examples.duplicates import find_pairs
from finetune.data.examples.inspection import Check
from finetune.data.examples.survey import Survey, survey_rows
from finetune.data.options import Mixture, OnError
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.example import RowFinding
from finetune.metrics.metric import Metric
from finetune.tasks.task import Task

S = TypeVar("S", Splits, Splits | None)

MOST_IMAGES = 500
"""Images of a split that are decoded unless all of them are asked for, evenly spread."""

_ROWS_A_WORKER = 200
"""Fewer are decoded before another process has started."""


@dataclass(frozen=True)
class Reviewed:
    """A split."""

    survey: Survey
    """Its rows without faults in their texts."""
    images: Mapping[int, Decoded]
    """The decoded images by index, also those with a fault."""
    collator: Collator
    """That of the split."""

    @property
    def examples(self) -> ExampleDataset:
        """The rows without faults in their texts."""
        return self.survey.examples


@dataclass(frozen=True)
class Review:
    """The data of a run, and what is wrong with them."""

    splits: Mapping[str, Reviewed]
    task: Task
    findings: list[RowFinding]
    rows: int
    """Number of rows that were checked."""
    images: int
    """Number of rows whose images were decoded."""


def review_data(
    config: RunConfig, processor: PaliGemmaProcessor, metric: Metric, *, every_image: bool
) -> Review:
    """Check every row of every split as a training would, and decode images on all cores.

    Args:
        config: options of the run.
        processor: processor of the checkpoint.
        metric: checked by scoring an empty answer to each validation and test example.
        every_image: decode all of them; otherwise some of each split.

    Raises:
        UserError: a file cannot be read at all, or no row of a split can be used.
    """
    train_collator, collator = build_collators(config, processor)
    findings: list[RowFinding] = []
    splits = _read(config, read_splits, findings)
    tests = _read(config, load_test, findings)
    task = build_task(config, splits)
    train = _review_rows(build_train_examples(config, splits, task), train_collator, findings)
    train = _review_lengths(config, train, train_collator, findings)
    surveys = [(train, train_collator)]
    scored = {"validation": splits} if tests is None else {"validation": splits, "test": tests}
    for name, read in scored.items():
        examples = build_validation(config, read, task, name)
        surveys.append((_review_scored(config, examples, collator, metric, findings), collator))
    reviewed = {
        survey.examples.split: Reviewed(survey, _decode(survey.examples, every_image, findings), used)
        for survey, used in surveys
    }
    for one, other in combinations(reversed(reviewed.values()), 2):
        findings += _find_overlap(one, other)
    images = sum(len(split.images) for split in reviewed.values())
    rows = len(splits.train) + sum(len(read.validation) for read in scored.values())
    return Review(reviewed, task, findings, rows, images)


def _read(config: RunConfig, read: Callable[[RunConfig], S], findings: list[RowFinding]) -> S:
    """Return the rows, and add what is left out of them to the findings instead of raising a fault."""
    strict, lenient = (
        replace(config, dataset=_treat_faults(config.dataset, treatment))
        for treatment in (OnError.error, OnError.skip)
    )
    try:
        # Rows that are read as a training reads them are in the cache for it.
        splits, is_fault = read(strict), False
    except UserError:
        splits, is_fault = read(lenient), True
    if splits is not None:
        # A row that its format leaves out on purpose, such as one without an image, is no fault.
        findings += [RowFinding(reason, is_fault) for reason in splits.skipped]
    return splits


def _treat_faults(dataset: Any, treatment: OnError) -> Any:
    if isinstance(dataset, dict):
        return {**dataset, "on_error": treatment} if "on_error" in dataset else dataset
    if isinstance(dataset, Mixture):
        parts = {
            name: replace(part, source=_treat_faults(part.source, treatment))
            for name, part in dataset.parts.items()
        }
        return replace(dataset, parts=parts)
    return replace(dataset, on_error=treatment) if hasattr(dataset, "on_error") else dataset


def place_findings(
    examples: ExampleDataset, reasons: Mapping[int, str], *, is_fault: bool = True
) -> list[RowFinding]:
    """Return findings about rows, with the places that they were read from.

    Args:
        examples: the split.
        reasons: index -> what is wrong.
        is_fault: whether training refuses such rows.
    """
    ids = name_rows(examples, reasons)
    places = find_places(examples.rows, ids.values())
    return [
        RowFinding(reason, is_fault, examples.split, places.get(ids[index], ""), ids[index])
        for index, reason in reasons.items()
    ]


def name_rows(examples: ExampleDataset, indices: Iterable[int]) -> dict[int, str]:
    """Return the ids of some rows."""
    chosen = list(indices)
    rows = examples.rows.select_columns("id")
    return dict(zip(chosen, rows[chosen]["id"] if chosen else [], strict=True))


def _review_rows(
    examples: ExampleDataset,
    collator: Collator,
    findings: list[RowFinding],
    *,
    check: Check | None = None,
    most_tokens: int | None = None,
) -> Survey:
    """Return the survey of the rows without faults, and add the faults to the findings."""
    survey = survey_rows(examples, collator, check)
    faults = survey.find_faults(most_tokens)
    return _leave_rows_out(survey, faults, findings)


def _review_scored(
    config: RunConfig,
    examples: ExampleDataset,
    collator: Collator,
    metric: Metric,
    findings: list[RowFinding],
) -> Survey:
    """Return the survey of a split that is scored, without the rows that have faults."""
    empty = EmptyAnswer(examples.task, metric)
    most = max(LONGEST_REFERENCE, config.collator.max_text_length)
    survey = _review_rows(examples, collator, findings, check=empty, most_tokens=most)
    try:
        check_together(survey, empty)
    except UserError as error:
        findings.append(RowFinding(str(error), split=examples.split))
    return survey


def _review_lengths(
    config: RunConfig, train: Survey, collator: Collator, findings: list[RowFinding]
) -> Survey:
    """Return the survey without texts that do not fit, and add them to the findings."""
    overflow = train.find_overflow(config.collator.max_text_length)
    is_fault = config.collator.overflow == Overflow.error
    remedy = "Raise collator.max_text_length, or shorten it." if is_fault else "It is left out."
    reasons = {
        index: f"Row `{record['id']}` is too long: it {record['reason']}. {remedy}"
        for index, record in overflow.examples.items()
    }
    findings += [
        RowFinding(
            f"Row `{record['id']}`: answer {record['suffix']!r} is too long: {record['reason']}. {remedy}",
            is_fault,
            "train",
            row=record["id"],
        )
        for record in overflow.suffixes
    ]
    return _leave_rows_out(train, reasons, findings, is_fault=is_fault)


def _leave_rows_out(
    survey: Survey, reasons: Mapping[int, str], findings: list[RowFinding], *, is_fault: bool = True
) -> Survey:
    found = place_findings(survey.examples, reasons, is_fault=is_fault)
    if found and len(found) == len(survey):
        split = survey.examples.split
        raise UserError(f"All {len(found):,} {split} rows have faults; the first: {found[0]}")
    findings += found
    return survey.leave_out(list(reasons))


def _decode(examples: ExampleDataset, every_image: bool, findings: list[RowFinding]) -> dict[int, Decoded]:
    """Return the decoded images of a split, or of some of its rows, and add those that cannot be used."""
    count = len(examples)
    indices: Sequence[int] = range(count)
    if not every_image and count > MOST_IMAGES:
        indices = np.linspace(0, count - 1, MOST_IMAGES).round().astype(int).tolist()
    workers = min(count_cores(), len(indices) // _ROWS_A_WORKER)
    workers = workers if workers > 1 else 0
    decoded = {row.row: row for row in decode_images(examples, indices, workers, fingerprints=True)}
    faults = {index: row.fault for index, row in decoded.items() if row.fault is not None}
    findings += place_findings(examples, faults)
    return decoded


def _find_overlap(scored: Reviewed, other: Reviewed) -> list[RowFinding]:
    """Return the rows of a scored split whose image is also in another split."""
    shared = set(scored.survey.find_shared(other.survey).tolist())
    name = other.examples.split
    same = f"is also in {name}: the same image and texts. The score will be too high."
    ids = name_rows(scored.examples, shared)
    reasons = {index: f"Row `{ids[index]}` {same}" for index in sorted(shared)}
    alike = {}
    pairs = [pair for pair in find_pairs(scored.images, other.images) if pair.row not in shared]
    ids = name_rows(scored.examples, [pair.row for pair in pairs])
    others = name_rows(other.examples, [pair.other for pair in pairs])
    places = find_places(other.examples.rows, others.values())
    for pair in pairs:
        row = others[pair.other]
        where = f"row `{row}`" + (f" ({places[row]})" if row in places else "")
        if pair.is_same:
            reasons[pair.row] = (
                f"Row `{ids[pair.row]}`: its image is also in {name}, {where}. The score will be too high."
            )
        else:
            alike[pair.row] = f"Row `{ids[pair.row]}`: its image looks like one in {name}, {where}."
    return [
        *place_findings(scored.examples, reasons),
        *place_findings(scored.examples, alike, is_fault=False),
    ]
