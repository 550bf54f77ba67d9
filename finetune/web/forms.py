"""What a person fills in to ask: the fields of the prompt of each task of a run, or a whole prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetune.errors import UserError
from finetune.tasks.asking import write_prefixes
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsTask

FREE = "Free prompt"
"""Name of the form that takes a whole prompt."""

_TASK = "Task of the run"
_PROMPT = "prefix"


class Kind(StrEnum):
    """How a field is filled in."""

    text = "text"
    classes = "classes"
    lines = "lines"


@dataclass(frozen=True)
class Field:
    """One field of a form."""

    name: str
    """As the task's prompt has it in braces."""
    kind: Kind
    known: tuple[str, ...] = ()
    """The classes that may be chosen; empty if any may."""
    start: str = ""
    """The text that stands there at first; of classes and lines, one in each line."""


@dataclass(frozen=True)
class Form:
    """The prompt of one task, with its fields."""

    name: str
    """As it is shown; of a mixture, the name of the part."""
    part: str | None = None
    """Part of a mixture; None for a run with one task."""
    task: object = None
    """Writes the prompt; None if the only field is the whole prompt."""
    template: str = ""
    """The prompt with its fields in braces; empty if it is not known."""
    fields: tuple[Field, ...] = (Field(_PROMPT, Kind.text),)

    def write(self, values: Mapping[str, object]) -> tuple[tuple[str, ...], dict[str, object]]:
        """Return the prompts, and the values of the fields that are filled in.

        Args:
            values: a text by the name of its field; of classes and lines, a list of texts.

        Raises:
            UserError: a field is empty that the prompt needs, or a value does not fit.
        """
        given = {field.name: _clean(field, values.get(field.name)) for field in self.fields}
        filled = {name: value for name, value in given.items() if value}
        missing = [
            field.name
            for field in self.fields
            if field.name not in filled and not (field.kind == Kind.classes and field.known)
        ]
        if self.task is None:
            if missing:
                raise UserError("Write a prompt.")
            return (str(filled[_PROMPT]),), {}
        if missing:
            raise UserError(f"Fill in: {', '.join(missing)}. The prompt is `{self.template}`.")
        return write_prefixes(self.task, filled, list(filled)), filled


def _clean(field: Field, value: object) -> object:
    """Return a text, or a list without empty texts."""
    if field.kind == Kind.text:
        text = str(value or "")
        return text if text.strip() else ""
    if isinstance(value, str):
        value = value.splitlines()
    items = value if isinstance(value, list | tuple) else []
    return [text for item in items if (text := str(item).strip())]


def build_forms(task: object, start: Mapping[str, object], prompt: str = "") -> list[Form]:
    """Return the forms of a run: one of each of its tasks, and last the one of a whole prompt.

    Args:
        task: the run's task; a custom one may have no fields.
        start: values of fields by name that are filled in at first.
        prompt: the whole prompt that is filled in at first.
    """
    tasks = task.tasks if isinstance(task, MixedTask) else {None: task}
    forms = []
    for part, one in tasks.items():
        names: Mapping[str, object] = getattr(one, "fields", {_PROMPT: None})
        template = _find_template(one)
        if template.strip("{} ") == _PROMPT or (not template and _PROMPT in names):
            continue  # its prompt is anything
        fields = tuple(_build_field(one, name, start) for name in names)
        forms.append(Form(_TASK if part is None else str(part), part, one, template, fields))
    return [*forms, Form(FREE, fields=(Field(_PROMPT, Kind.text, start=prompt),))]


def _build_field(task: object, name: str, start: Mapping[str, object]) -> Field:
    value = start.get(name)
    text = "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")
    if isinstance(task, ObjectsTask) and name == "labels":
        return Field(name, Kind.classes, tuple(task.options.labels or ()), text)
    if isinstance(task, ChoiceTask) and name == task.choices:
        return Field(name, Kind.lines, start=text)
    return Field(name, Kind.text, start=text)


def _find_template(task: object) -> str:
    prompt = task.options.prompt if isinstance(task, ObjectsTask) else getattr(task, "prompt", "")
    return prompt if isinstance(prompt, str) else ""
