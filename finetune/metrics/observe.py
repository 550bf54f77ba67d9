"""Looking at rows while they are scored, for what is probably not meant."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from finetune.errors import describe
from finetune.metrics.doubts import Doubt
from finetune.metrics.fields import name_row
from finetune.metrics.metric import Metric, ObjectMetric
from finetune.metrics.object_doubts import ObjectDoubts
from finetune.metrics.several import metrics_of
from finetune.metrics.text_doubts import TextDoubts


class _Part(Protocol):
    def see(self, row: Mapping[str, object]) -> None: ...

    def conclude(self, scores: Mapping[str, object]) -> list[Doubt]: ...


class Observer:
    """Sees every row of a set once, and says what is doubtful in the whole.

    Args:
        metric: the metric that the rows are scored with.
    """

    def __init__(self, metric: Metric) -> None:
        self._part = _build_part(metric)
        # Eight bytes a row: the ids themselves would not stay small.
        self._ids = array("q")

    def see(self, row: Mapping[str, object]) -> None:
        """Look at one row; for `compute_by_group`.

        Raises:
            UserError: it cannot be scored.
        """
        row_id = row.get("id")
        if isinstance(row_id, str):
            self._ids.append(hash(row_id))
        else:  # a row without an id differs from every other
            self._ids.append(hash((len(self._ids),) if row_id is None else describe(row_id)))
        self._part.see(row)

    def conclude(self, rows: Sequence[Mapping[str, object]], scores: Mapping[str, object]) -> list[Doubt]:
        """Return the doubts.

        Args:
            rows: the rows seen.
            scores: of `compute_by_group`.
        """
        return [*self._part.conclude(scores), *self._doubt_ids(rows)]

    def _doubt_ids(self, rows: Sequence[Mapping[str, object]]) -> list[Doubt]:
        hashes = np.frombuffer(self._ids, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order][1:] == hashes[order][:-1]]
        if not len(again):
            return []
        row = rows[int(again.min())]
        return [Doubt(f"{len(again)} rows repeat an id and count again; the first is {name_row(row)}.")]


def find_doubts(
    metric: Metric, rows: Sequence[Mapping[str, object]], scores: Mapping[str, object]
) -> list[Doubt]:
    """Look at rows in memory, which were scored already.

    Args:
        metric: the metric.
        rows: prediction rows.
        scores: of `compute_by_group`.
    """
    observer = Observer(metric)
    for row in rows:
        observer.see(row)
    return observer.conclude(rows, scores)


def _build_part(metric: Metric) -> _Part:
    main = metrics_of(metric)[0]
    if isinstance(main, ObjectMetric):
        return ObjectDoubts(main.compared)
    field, more_is_better = next(iter(main.higher_is_better.items()), (None, False))
    return TextDoubts(field if more_is_better else None)
