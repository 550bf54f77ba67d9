"""Text in, text out: captions, open questions, anything that is compared as a string."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from finetune.errors import UserError


@dataclass(frozen=True)
class TextTask:
    """How a row becomes a prefix and the accepted suffixes.

    Args:
        prompt: the prefix, with the row's columns in braces.
        answers: the column that holds the accepted suffixes.
        lower: lower-case the suffixes.
    """

    prompt: str
    answers: str
    lower: bool = False

    def check_columns(self, columns: list[str]) -> None:
        """Raise if the rows lack a column that the task reads.

        Raises:
            UserError: a column is missing; the message lists those there are.
        """
        wanted = [name for _, name, _, _ in Formatter().parse(self.prompt) if name is not None]
        for name in [*wanted, self.answers]:
            if name not in columns:
                raise UserError(
                    f"The task reads column `{name}` (task.prompt={self.prompt!r}, "
                    f"task.answers={self.answers}), but the rows have: {', '.join(columns)}."
                )

    def build_prefix(self, row: Mapping[str, Any]) -> str:
        """Return the prompt of one row."""
        return self.prompt.format_map(row)

    def build_suffixes(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return every accepted answer of one row; empty where it has none."""
        answers = tuple(row[self.answers])
        return tuple(answer.lower() for answer in answers) if self.lower else answers
