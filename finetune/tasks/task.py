"""What every task is: how a row is asked, what an answer is scored against, and how it is read."""

import re
from collections.abc import Iterator, Mapping
from random import Random
from string import Formatter
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.tasks.objects import ObjectsOptions

Row = Mapping[str, Any]
"""One row of a source, by column."""

Target = Mapping[str, Any]
"""Keys of a prediction row (`finetune.example.PredictionRow`); those of a custom task may be others."""


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
    unfinished: bool = False
    """Whether it was cut at `evaluation.max_new_tokens`, before EOS."""
    loss: float | None = None
    """Of the reference that was given with the prompt, nats."""


class TaskOptions(Protocol):
    """A task as a run's options have it, before rows are read."""

    @property
    def object_options(self) -> "ObjectsOptions | None":
        """The options of boxes and masks; None for a task that writes none from a row's objects."""


class Task(Protocol):
    """How a row is asked, what an answer is scored against, and how it is read.

    A custom task is a class with these methods: `task=custom task._target_=module.Class`, described in
    `docs/tasks.md`. One with a grammar has `grammars` and `build_form` too (`tasks/grammar.py`).
    """

    def check_columns(self, columns: list[str]) -> None:
        """Raise `UserError` if the rows lack a column that the task reads."""

    def build_text(self, row: Row, draw: Random | None = None) -> Text:
        """Return prefix and accepted suffixes of one row.

        Args:
            row: `width` and `height` are those of the image, pixels.
            draw: of this example in this epoch, to train on; None: as it is evaluated, always the same.

        Raises:
            UserError: the row cannot be worded, such as where a column that the prompt names is null.
        """

    def measure_text(self, row: Row) -> Text:
        """Return text as long as that of `build_text`, without what is slow to compute."""

    def build_target(self, row: Row) -> Target:
        """Return what an answer is scored against, under the names of prediction rows."""

    def read_answer(self, answer: Answer, target: Target) -> Target:
        """Return what the answer says, under the names of prediction rows, besides its text."""


def template_columns(template: str) -> list[str]:
    """Return the names in the braces of a template.

    Raises:
        UserError: a brace is not closed, or there is not one plain name in a pair of them.
    """
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise UserError(
            f"The template {template!r} cannot be read ({error}). Write {{{{ and }}}} for braces that are "
            "part of the text."
        ) from error
    for _, name, specification, conversion in fields:
        if not name or name.isdigit() or specification or conversion or {*".["} & {*name}:
            raise UserError(
                f"The template {template!r}: expected the name of a column in each pair of braces, such as "
                f"{{question}}, but got {{{name}}}. Write {{{{ and }}}} for braces that belong to the text."
            )
    return [str(name) for _, name, _, _ in fields]


def template_problems(options: Mapping[str, str], prefix: str) -> Iterator[str]:
    """Yield what is wrong in the templates among a task's options.

    Args:
        options: name -> template.
        prefix: of the options' keys.
    """
    for name, template in options.items():
        try:
            template_columns(template)
        except UserError as error:
            yield f"{prefix}{name}: {error}"


def check_names(template: str, names: tuple[str, ...], option: str) -> None:
    """Raise if a template has other names in its braces than those that are known.

    Raises:
        UserError: names the option and the known names.
    """
    for name in template_columns(template):
        if name not in names:
            known = ", ".join(f"{{{name}}}" for name in names)
            raise UserError(f"{option}={template!r} has no value for {{{name}}}; it may use {known}.")


def fill_template(template: str, row: Row, **values: str) -> str:
    """Return a template with the row's columns in its braces.

    Args:
        template: such as `answer en {question}`.
        row: read where `values` has no such name.
        values: what is not a column, such as `{labels}`.

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


def read_template(template: str, text: str) -> dict[str, str]:
    """Return the values of a template's columns in a text that was made with it; empty for another text."""
    parts = list(Formatter().parse(template))
    pattern = "".join(re.escape(before) + ("" if name is None else "(.*)") for before, name, _, _ in parts)
    match = re.fullmatch(pattern, text, re.DOTALL)
    names = [name for _, name, _, _ in parts if name is not None]
    return {} if match is None else dict(zip(names, match.groups(), strict=True))


def read_texts(row: Row, column: str) -> tuple[str, ...]:
    """Return the texts of a column that holds one, a list of them, or None for none.

    Raises:
        UserError: an item of the list is not a text; the message names row and column.
    """
    value = row[column]
    if not isinstance(value, (str, list, tuple, NoneType)):
        raise UserError(
            f"Row `{row.get('id')}`: expected column `{column}` to be a text or a list of texts, but got "
            f"{value!r}."
        )
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
