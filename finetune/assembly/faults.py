"""Rows that cannot be used: an error, or omitted with the reason under `dataset.on_error=skip`."""

import logging
from collections.abc import Mapping

from accelerate import PartialState

from finetune.data.cache import find_places
from finetune.data.examples.classes import find_labels
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.decoding import find_broken_images
from finetune.data.examples.survey import Survey
from finetune.data.options import Source
from finetune.errors import UserError
from finetune.processes import share
from finetune.tasks.mixture import PART
from finetune.tasks.objects import list_names, object_tasks

log = logging.getLogger(__name__)

Skipped = list[dict[str, str]]
"""Lines of `skipped.jsonl`."""


def leave_out_faults(survey: Survey, faults: Mapping[int, str], source: Source) -> tuple[Survey, Skipped]:
    """Report faults: an error, or a warning where all of them may be skipped.

    Args:
        survey: survey of the split.
        faults: index of a row -> its fault.
        source: source of its rows.

    Returns:
        The split without these rows, and a line for each.

    Raises:
        UserError: a fault may not be skipped, or no row is left.
    """
    if not faults:
        return survey, []
    examples = survey.examples
    skips = {index: _skips(source, examples, index) for index in faults}
    fatal = [index for index in faults if not skips[index]]
    index = fatal[0] if fatal else next(iter(faults))
    row_id = examples.rows[index]["id"]
    place = find_places(examples.rows, [row_id]).get(row_id) or source.describe(examples.split)
    first = f"{examples.split} ({place}): {faults[index].removesuffix('.')}."
    if fatal:
        more = f" {len(fatal) - 1} more {examples.split} rows have faults." if len(fatal) > 1 else ""
        remedy = "" if skips[index] is None else " Or leave out what is wrong: dataset.on_error=skip."
        raise UserError(f"{first}{_explain_classes(examples)}{more}{remedy}")
    if len(faults) == len(examples):
        raise UserError(f"All {len(examples)} {examples.split} rows have faults; the first: {first}")
    log.warning(
        "warning: left out %d of %d %s examples with faults; the first: %s",
        len(faults),
        len(examples),
        examples.split,
        first,
    )
    lines = [
        {"split": examples.split, "id": examples.rows[index]["id"], "reason": reason}
        for index, reason in faults.items()
    ]
    return survey.leave_out(list(faults)), lines


def leave_out_broken_images(survey: Survey, source: Source, workers: int) -> tuple[Survey, Skipped]:
    """Decode every image of a split, and report those that cannot be decoded; processes share the work.

    Args:
        survey: survey of the split.
        source: source of its rows.
        workers: number of data workers of each process.

    Raises:
        UserError: as in `leave_out_faults`.
    """
    state = PartialState()
    indices = range(state.process_index, len(survey), state.num_processes)
    by_process = share(find_broken_images(survey.examples, workers, indices))
    faults = dict(sorted(pair for broken in by_process for pair in broken.items()))
    return leave_out_faults(survey, faults, source)


def _skips(source: Source, examples: ExampleDataset, index: int) -> bool | None:
    """Return whether a row's source leaves faults out; None if it has no such option."""
    parts = source.mixed_parts()
    skips: bool | None = (parts[examples.rows[index][PART]].source if parts else source).skips_faults
    return skips


def _explain_classes(examples: ExampleDataset) -> str:
    """Return a remedy for classes that are missing in the training split, whose classes the task uses."""
    task = object_tasks(examples.task).get("")
    if task is None or not task.classes_found or not task.options.write_label:
        return ""
    labels = task.options.labels or []
    unseen = [label for label in find_labels(examples.rows) if label not in labels]
    if not unseen:
        return ""
    whole = "" if len(labels) + len(unseen) > 20 else f" (task.labels=[{','.join([*labels, *unseen])}])"
    return (
        f" The list is that of the training split; only the validation split has {list_names(unseen)}. "
        f"Name all classes{whole}, or correct the spelling."
    )
