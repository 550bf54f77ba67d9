"""Prompts for images without a row of data: from what the user says, as the task worded it in training."""

from collections.abc import Mapping, Sequence

from finetune.errors import UserError


def write_prefixes(
    task: object, fields: Mapping[str, object], given: Sequence[str], example: str = ""
) -> tuple[str, ...]:
    """Return the prompts that a task asks with the values of its fields.

    Args:
        task: with `fields`, the defaults of what its prompt names, and `build_prefixes`; a custom task may
            have neither.
        fields: name -> value; others than those of the task are ignored.
        given: names among them that must be the task's.
        example: a prompt that the run was evaluated with, for messages; empty if there is none.

    Raises:
        UserError: the task has no such field, or a field has no value.
    """
    whole = f"prefix={example!r}" if example else 'prefix="..."'
    known: Mapping[str, object] = getattr(task, "fields", {"prefix": None})
    for name in given:
        if name not in known:
            others = ", ".join(f"{other}=" for other in known if other != "prefix")
            fits = f"What fits there: {others}." if others else "It has no fields."
            raise UserError(
                f"{name}= has no place in the prompt of this task. {fits} Or write the whole prompt: "
                f"{whole}."
            )
    values = {name: known[name] if fields.get(name) is None else fields[name] for name in known}
    if missing := [f"{name}=..." for name, value in values.items() if value is None and name != "prefix"]:
        raise UserError(
            f"Which prompt? The task asks with {' '.join(missing)}; or write the whole prompt: {whole}."
        )
    if "prefix" in values and values["prefix"] is None:
        raise UserError(f"Which prompt? {whole}{', such as this one of the run' if example else ''}.")
    prefixes: tuple[str, ...] = task.build_prefixes(values)  # type: ignore[attr-defined]
    return prefixes


def check_text(name: str, value: object) -> str:
    """Return the text of a field.

    Raises:
        UserError: it is not a text.
    """
    if not isinstance(value, str):
        raise UserError(f"{name}: expected a text, but got {value!r}.")
    return value


def check_texts(name: str, value: object) -> list[str]:
    """Return the texts of a field.

    Raises:
        UserError: it is not a list of texts.
    """
    if not isinstance(value, list | tuple) or not value:
        raise UserError(f"{name}: expected a list of texts, but got {value!r}.")
    return [check_text(name, item) for item in value]
