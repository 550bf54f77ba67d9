"""What the answers to a task may be, for decoding that allows nothing else."""

import re
from enum import StrEnum

from finetune.codecs.boxes import CODES_PER_MASK, SEPARATOR
from finetune.errors import UserError
from finetune.example import AnswerForm
from finetune.tasks.task import Row


class Grammar(StrEnum):
    """Choices of `evaluation.grammar`."""

    none = "none"
    auto = "auto"
    yes_no = "yes_no"
    number = "number"


FORMS = {
    Grammar.yes_no: AnswerForm(("yes", "no", "Yes", "No")),
    Grammar.number: AnswerForm(number=True),
}
"""Those that are the same for every row."""


def check_grammar(task: object, grammar: Grammar) -> None:
    """Raise if a task's answers do not follow a grammar.

    Args:
        task: a task or its options; a custom task without `grammars` has none.
        grammar: other than `none`.

    Raises:
        UserError: names the grammars that the task has.
    """
    known: tuple[Grammar, ...] = getattr(task, "grammars", ())
    if grammar not in known:
        names = ", ".join(f"evaluation.grammar={name}" for name in known)
        reason = (
            "the task does not say what its answers are"
            if grammar == Grammar.auto
            else "the answers of the task are no such texts"
        )
        fits = f"What fits it: {names}." if names else "No grammar fits it."
        raise UserError(
            f"evaluation.grammar={grammar}: {reason}. {fits} evaluation.grammar=none allows everything."
        )


def build_form(task: object, grammar: Grammar, row: Row, prefix: str) -> AnswerForm | None:
    """Return what the answer to one prompt may be; None for anything.

    Args:
        task: has the grammar.
        grammar: the option.
        row: the row of the prompt; empty for a prompt that was written by hand.
        prefix: the prompt.

    Raises:
        UserError: the task has no such grammar, or the choices or classes are not known.
    """
    if grammar == Grammar.none:
        return None
    check_grammar(task, grammar)
    if grammar in FORMS:
        return FORMS[grammar]
    form: AnswerForm = task.build_form(row, prefix)  # type: ignore[attr-defined]
    return form


def can_write(form: AnswerForm, text: str) -> bool:
    """Return whether an answer of a form may be this text; that no object is there twice is not checked."""
    if form.number:
        return re.fullmatch(r"-?[0-9]+(\.[0-9]+)?%?", text) is not None
    texts = "|".join(map(re.escape, form.texts))
    if not form.box:
        return text in form.texts
    codes = rf"(<seg[0-9]{{3}}>){{{CODES_PER_MASK}}}" if form.mask else ""
    one = rf"(<loc[0-9]{{4}}>){{4}}{codes}({texts})" if form.texts else "(?!)"
    return re.fullmatch(rf"({one}({SEPARATOR}{one})*)?", text) is not None
