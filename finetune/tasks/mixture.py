"""Several tasks in one run: each row is asked, scored and read as its part says."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from finetune.errors import UserError
from finetune.example import AnswerForm
from finetune.tasks.grammar import Grammar
from finetune.tasks.task import Answer, Row, Target, Task, Text

PART = "__part__"
"""The column with the name of a row's part; your tables may well have a column `part`."""


@dataclass(frozen=True)
class MixedTask:
    """Hands each row to the task of its part.

    Args:
        tasks: name of the part -> its task.
    """

    tasks: Mapping[str, Task]

    def check_columns(self, columns: list[str]) -> None:
        """Raise if the rows lack a column that any of the tasks reads; the message names the part."""
        for name, task in self.tasks.items():
            try:
                task.check_columns(columns)
            except UserError as error:
                raise UserError(f"Part `{name}`: {error}") from error

    def build_text(self, row: Row, draw: Random | None = None) -> Text:
        """Return prefix and suffixes as the row's part words them."""
        return self.tasks[row[PART]].build_text(row, draw)

    def measure_text(self, row: Row) -> Text:
        """Return text of the same length."""
        return self.tasks[row[PART]].measure_text(row)

    def build_target(self, row: Row) -> Target:
        """Return what an answer is scored against, and the part."""
        return {**self.tasks[row[PART]].build_target(row), "part": row[PART]}

    def read_answer(self, answer: Answer, target: Target) -> Target:
        """Return what the answer says."""
        return self.tasks[target["part"]].read_answer(answer, target)

    @property
    def grammars(self) -> tuple[Grammar, ...]:
        """Those that fit the tasks of all parts."""
        each = [set(getattr(task, "grammars", ())) for task in self.tasks.values()]
        return tuple(grammar for grammar in Grammar if all(grammar in fitting for fitting in each))

    def build_form(self, row: Row, prefix: str) -> AnswerForm:
        """Return what the answer may be in the row's part.

        Raises:
            UserError: the part is not known, as for a prompt that was written by hand.
        """
        if PART not in row:
            raise UserError(
                "evaluation.grammar=auto: the run has several tasks, and a prompt does not say to which of "
                "them it belongs. Leave it out with evaluation.grammar=none."
            )
        form: AnswerForm = self.tasks[row[PART]].build_form(row, prefix)  # type: ignore[attr-defined]
        return form


def parts_of(task: Task) -> Mapping[str, Task]:
    """Return the tasks of a run by the names of its parts; one that is not mixed has the empty name."""
    return task.tasks if isinstance(task, MixedTask) else {"": task}


def replace_parts(task: Task, parts: Mapping[str, Task]) -> Task:
    """Return a run's task with others for some of its parts, which are named as in `parts_of`."""
    return MixedTask({**task.tasks, **parts}) if isinstance(task, MixedTask) else parts.get("", task)
