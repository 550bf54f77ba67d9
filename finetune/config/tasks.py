"""The options of the tasks; `_target_` names the class that takes them."""

from dataclasses import dataclass
from enum import StrEnum

from finetune.option import MAY_BE_EMPTY, OneOf, Range, option


@dataclass
class TextTask:
    """Text in, text out."""

    _target_: str = "finetune.tasks.text.TextTask"
    prompt: str = option("{prefix}", MAY_BE_EMPTY)
    """The prefix, with the row's columns in braces, such as `answer en {question}`."""
    answers: str = "suffixes"
    """The column that holds the accepted suffixes."""
    lower: bool = False
    """Lower-case the suffixes."""
    objects: bool = False
    """The suffixes are boxes written as text (`<loc0012>... cat`), and are scored as boxes."""


@dataclass
class ChoiceTask:
    """Multiple choice."""

    _target_: str = "finetune.tasks.choice.ChoiceTask"
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


class Classes(StrEnum):
    """Classes that a prompt names."""

    all = "all"
    present = "present"
    one = "one"


class ObjectOrder(StrEnum):
    """Orders of the objects in a suffix."""

    given = "given"
    random = "random"
    left_to_right = "left_to_right"


@dataclass
class ObjectsTask:
    """Boxes, and masks inside them."""

    _target_: str = "finetune.tasks.objects.ObjectsTask"
    prompt: str = option("detect {labels}", MAY_BE_EMPTY)
    """The prefix: columns in braces, and `{labels}` for the classes asked for, joined by ` ; `."""
    labels: list[str] | None = None
    """The classes, in the order of the prompt. Null: all that the training split has."""
    classes: Classes = Classes.all
    """Classes that a prompt names: `all`; those `present` in the picture, which tells the model what
    is there; or `one`: every class of a picture is an example of its own."""
    negatives: int = option(0, Range(0, 1e6))
    """Under `classes=one`: of the classes that a picture lacks, how many are asked for while training,
    with an empty answer. Evaluation asks for all of them."""
    order: ObjectOrder = ObjectOrder.given
    """Order of the objects: as `given`, `random` in each epoch (the paper's detection), or
    `left_to_right`."""
    write_label: bool = True
    """Write the class behind each object; not where an expression refers to one thing."""
    masks: bool = False
    """Write the mask of each object inside its box."""
    mask_vae: str | None = None
    """Weights of the mask codec: `published` (big_vision's, downloaded at first use), `own` (trained on
    the training split's masks at first use), or a file."""
    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by when an answer is read: 1023, or 1024."""
