"""Score an empty answer to every validation example, to find what the metric lacks before training."""

import pickle
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import Features, Value

from finetune.data.cache import find_cache_dir
from finetune.data.examples.inspection import measure_example
from finetune.data.examples.survey import Survey, remember
from finetune.errors import UserError
from finetune.metrics.jsonl import Selection
from finetune.metrics.metric import Metric, compute_by_group
from finetune.run.files import explain_disk_errors
from finetune.tasks.task import Answer, Row, Target, Task

_FAULT = Features({"fault": Value("string")})


@dataclass(frozen=True)
class EmptyAnswer:
    """Scores an empty answer to one row."""

    task: Task
    metric: Metric

    def __call__(self, row: Row, target: Target) -> None:
        """Score an empty answer.

        Raises:
            UserError: the row lacks what the metric needs, such as ten references.
        """
        self.metric.score(self.build(row, target))

    def build(self, row: Row, target: Target) -> Row:
        """Return the prediction row."""
        answer = {"prediction": "", "confidence": 0.0, **self.task.read_answer(Answer("", 0.0), target)}
        return {"id": row["id"], "group": row["group"], **target, **answer}


def check_together(survey: Survey, empty: EmptyAnswer) -> None:
    """Score an empty answer to all examples of a split together; the cache remembers the result.

    Args:
        survey: made with `empty` as its check; without the rows that have faults.
        empty: task and metric.

    Raises:
        UserError: only the whole set shows what is missing, such as the second row of a pair.
    """

    def check() -> Iterator[pa.StructArray]:
        with explain_disk_errors(find_cache_dir()), _Stored() as answers:
            for index, row in enumerate(survey.examples.iterate_rows()):
                _, target = measure_example(survey.examples, index, row, {})
                answers.append(empty.build(row, target))
            fault = None
            try:
                compute_by_group(empty.metric, answers)
            except UserError as error:
                fault = str(error)
        yield pa.array([{"fault": fault}], type=pa.struct(list(_FAULT.arrow_schema)))

    fault = remember(survey.key and f"set-{survey.key}", _FAULT, check)["fault"][0].as_py()
    if fault is not None:
        raise UserError(fault)


class _Stored(Sequence[Any]):
    """Rows on disk, at eight bytes of memory each: a metric reads them several times."""

    def __init__(self) -> None:
        find_cache_dir().mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=find_cache_dir())  # noqa: SIM115 closed on exit
        self._starts = array("q")

    def __enter__(self) -> "_Stored":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        self._starts.append(self._file.tell())
        pickle.dump(row, self._file)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Selection(self, range(len(self))[index])
        self._file.seek(self._starts[index])
        return pickle.load(self._file)
