"""Multiple choice: letters or the words of the choices, in the given order or shuffled."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from string import ascii_uppercase
from typing import ClassVar

from finetune.errors import UserError
from finetune.example import AnswerForm, PredictionRow
from finetune.option import MAY_BE_EMPTY, option
from finetune.tasks.asking import check_text, check_texts
from finetune.tasks.grammar import Grammar
from finetune.tasks.task import (
    Answer,
    Row,
    Target,
    Text,
    check_columns,
    check_names,
    fill_template,
    read_texts,
    template_columns,
    template_problems,
)


@dataclass(frozen=True)
class ChoiceTask:
    """Multiple choice."""

    object_options: ClassVar[None] = None

    prompt: str = option("answer en {question} choose from: {choices}", MAY_BE_EMPTY)
    """The prefix: the row's columns in braces, and `{choices}` for all of them."""
    choice: str = option("({letter}) {text}", MAY_BE_EMPTY)
    """How each choice is written in the prompt."""
    separator: str = option(", ", MAY_BE_EMPTY)
    """Between two choices."""
    suffix: str = option("{letter}", MAY_BE_EMPTY)
    """The answer: `{letter}` or `{text}` of the right choice, or a sentence with them."""
    shuffle: bool = False
    """Another order of the choices in each epoch of training; evaluation keeps the given one."""
    choices: str = "choices"
    """The column with the choices' texts."""
    answer: str = "answer"
    """The column with the index of the right one, from 0."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield what is wrong in the templates."""
        yield from template_problems(
            {"prompt": self.prompt, "choice": self.choice, "suffix": self.suffix}, prefix
        )

    def check_columns(self, columns: list[str]) -> None:
        """Raise if a column is missing, or a template has a name that is not known."""
        check_names(self.choice, ("letter", "text"), "task.choice")
        check_names(self.suffix, ("letter", "text"), "task.suffix")
        names = [name for name in template_columns(self.prompt) if name != "choices"]
        wanted = dict.fromkeys(names, f"task.prompt={self.prompt!r}")
        wanted[self.choices] = f"task.choices={self.choices}"
        check_columns({**wanted, self.answer: f"task.answer={self.answer}"}, columns)

    def build_text(self, row: Row, draw: Random | None = None) -> Text:
        """Return question and right answer of one row; no answer where it has none.

        Raises:
            UserError: there are no choices or too many, the answer is none of them, or a column that the
                prompt names, or a choice, is null.
        """
        texts, answer = read_texts(row, self.choices), row[self.answer]
        if not 1 < len(texts) <= len(ascii_uppercase):
            raise UserError(f"Row `{row['id']}`: expected 2 to 26 choices, got {len(texts)}.")
        if answer is not None and not isinstance(answer, int):
            raise UserError(
                f"Row `{row['id']}`: expected column `{self.answer}` to be the number of the right choice, "
                f"from 0, but got {answer!r}."
            )
        if answer is not None and not 0 <= answer < len(texts):
            raise UserError(
                f"Row `{row['id']}`: answer {answer} is none of its {len(texts)} choices (from 0)."
            )
        order = list(range(len(texts)))
        if self.shuffle and draw is not None:
            draw.shuffle(order)
        written = [
            self.choice.format(letter=letter, text=texts[index])
            for letter, index in zip(ascii_uppercase, order, strict=False)
        ]
        prefix = fill_template(self.prompt, row, choices=self.separator.join(written))
        if answer is None:
            return Text(prefix, ())
        letter = ascii_uppercase[order.index(answer)]
        return Text(prefix, (self.suffix.format(letter=letter, text=texts[answer]),))

    measure_text = build_text

    def build_target(self, row: Row) -> PredictionRow:
        """Return `references`: the right answer in the given order of the choices."""
        return {"references": list(self.build_text(row).suffixes)}

    def read_answer(self, answer: Answer, target: Target) -> PredictionRow:
        """Return nothing: the metric reads the letter."""
        return {}

    @property
    def fields(self) -> dict[str, object]:
        """What the prompt names, without values."""
        names = (name for name in template_columns(self.prompt) if name != "choices")
        return dict.fromkeys([*names, self.choices])

    def build_prefixes(self, fields: Row) -> tuple[str, ...]:
        """Return the question with its choices in their given order."""
        texts = {name: check_text(name, value) for name, value in fields.items() if name != self.choices}
        choices = check_texts(self.choices, fields[self.choices])
        return (self.build_text({**texts, "id": "", self.choices: choices, self.answer: None}).prefix,)

    @property
    def grammars(self) -> tuple[Grammar, ...]:
        """Those that fit the task."""
        return (Grammar.auto,)

    def build_form(self, row: Row, prefix: str) -> AnswerForm:
        """Return the answers that stand for the row's choices, in their given order.

        Raises:
            UserError: the row has no choices, as for a prompt that was written by hand.
        """
        if self.choices not in row:
            raise UserError(
                f"evaluation.grammar=auto: the choices are not known from the prompt alone. Give "
                f"{self.choices}=[...] and the question, or evaluation.grammar=none."
            )
        pairs = zip(ascii_uppercase, read_texts(row, self.choices), strict=False)
        return AnswerForm(tuple(self.suffix.format(letter=letter, text=text) for letter, text in pairs))
