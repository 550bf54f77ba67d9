"""What every task is: how a row is asked, what an answer is scored against, and how it is read."""

from collections.abc import Mapping
from random import Random
from string import Formatter
from typing import Any, NamedTuple, Protocol

from finetune.errors import UserError

Row = Mapping[str, Any]
"""One row of a source, by column."""


class Text(NamedTuple):
    """One example in words."""

    prefix: str
    """The prompt, without the separating newline."""
    suffixes: tuple[str, ...]
    """Every accepted answer; empty where the answer is unknown."""


class Answer(NamedTuple):
    """One generated suffix."""

    text: str
    """Without EOS; white space as the model wrote it."""
    confidence: float
    """Mean probability of its tokens, EOS among them; 0 to 1."""
    token_ends: tuple[int, ...] = ()
    """Where each token ends in the text, characters; empty where the text has no location."""
    probabilities: tuple[float, ...] = ()
    """Of each of these tokens."""


class Task(Protocol):
    """How a row is asked, what an answer is scored against, and how it is read.

    One's own is a class with these methods: `task=custom task._target_=module.Class`, described in
    `docs/tasks.md`.
    """

    def check_columns(self, columns: list[str]) -> None:
        """Raise `UserError` if the rows lack a column that the task reads."""

    def build_text(self, row: Row, draw: Random | None = None) -> Text:
        """Return prefix and accepted suffixes of one row.

        Args:
            row: `width` and `height` are those of the picture, pixels.
            draw: of this example in this epoch, to train on; null: as it is evaluated, always the same.
        """

    def measure_text(self, row: Row) -> Text:
        """Return text as long as that of `build_text`, without what is slow to compute."""

    def build_target(self, row: Row) -> dict[str, Any]:
        """Return what an answer is scored against, under the names of prediction rows."""

    def read_answer(self, answer: Answer, target: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the answer says, under the names of prediction rows, besides its text."""


def template_columns(template: str) -> list[str]:
    """Return the names in the braces of a template."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def fill_template(template: str, row: Row, **values: str) -> str:
    """Return a template with the row's columns in its braces.

    Args:
        template: such as `answer en {question}`.
        row: read where `values` has no such name.
        values: what is no column, such as `{labels}`.

    Raises:
        UserError: a column is null or missing; the message names it and the row.
    """
    known = {**row, **values}
    for name in template_columns(template):
        if known.get(name) is None:
            raise UserError(
                f"Row `{row.get('id')}`: column `{name}` is null, but the prompt {template!r} needs a text "
                'there. Fill it ("" for no text), or leave the row out of the data.'
            )
    return template.format_map(known)


def read_texts(row: Row, column: str) -> tuple[str, ...]:
    """Return the texts of a column that holds one, a list of them, or null for none.

    Raises:
        UserError: an item of the list is no text; the message names row and column.
    """
    value = row[column]
    texts = (value,) if isinstance(value, str) else tuple(value or ())
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            shown = "null" if text is None else repr(text)
            raise UserError(
                f"Row `{row.get('id')}`: expected the items of column `{column}` to be texts, but got "
                f"{shown} at place {place}. Write a text there, or leave it out of the list."
            )
    return texts


def check_columns(wanted: Mapping[str, str], columns: list[str]) -> None:
    """Raise if a wanted column is missing.

    Args:
        wanted: column -> the option that names it.
        columns: those that there are.

    Raises:
        UserError: one is missing; the message lists those there are.
    """
    for name, option in wanted.items():
        if name not in columns:
            raise UserError(
                f"The task reads column `{name}` ({option}), but the rows have: {', '.join(columns)}."
            )
