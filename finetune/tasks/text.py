"""Text in, text out: captions, open questions, counts, anything that is compared as a string."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from finetune.codecs.boxes import Reading, decode_boxes
from finetune.codecs.objects import ObjectReader, form_objects
from finetune.errors import UserError
from finetune.example import AnswerForm, PredictionRow, SceneObject
from finetune.option import MAY_BE_EMPTY, option
from finetune.tasks.asking import check_text
from finetune.tasks.grammar import Grammar
from finetune.tasks.task import (
    Answer,
    Row,
    Target,
    Text,
    check_columns,
    fill_template,
    read_texts,
    template_columns,
    template_problems,
)

_NAMES_CLASSES = re.compile(r"(?P<verb>detect|segment) (?P<labels>.*)", re.DOTALL)


@dataclass(frozen=True)
class TextTask:
    """Text in, text out."""

    object_options: ClassVar[None] = None

    prompt: str = option("{prefix}", MAY_BE_EMPTY)
    """The prefix, with the row's columns in braces, such as `answer en {question}`."""
    answers: str = "suffixes"
    """The column that holds the accepted suffixes."""
    lower: bool = False
    """Lower-case the suffixes."""
    objects: bool = False
    """The suffixes are boxes written as text (`<loc0012>... cat`), and are scored as boxes."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield what is wrong in the templates."""
        yield from template_problems({"prompt": self.prompt}, prefix)

    def check_columns(self, columns: list[str]) -> None:
        """Raise if a column is missing; the message lists those there are."""
        wanted = dict.fromkeys(template_columns(self.prompt), f"task.prompt={self.prompt!r}")
        if self.objects:
            wanted |= dict.fromkeys(("width", "height"), "task.objects=true: boxes in a row's one picture")
        check_columns({**wanted, self.answers: f"task.answers={self.answers}"}, columns)

    def build_text(self, row: Row, draw: Random | None = None) -> Text:
        """Return prompt and accepted answers of one row; no answer where it has none."""
        return Text(fill_template(self.prompt, row), self._answers(row))

    measure_text = build_text

    def build_target(self, row: Row) -> PredictionRow:
        """Return `references`; for boxes `width`, `height` and `objects`.

        Raises:
            UserError: a suffix that should be boxes is not, has an inverted one, or there is none.
        """
        answers = self._answers(row)
        if not self.objects:
            return {"references": list(answers)}
        if not answers:
            raise UserError(
                f"Row `{row['id']}`: column `{self.answers}` has no suffix, so that its boxes are unknown. "
                'Write "" where the picture has no objects, or leave the row out of the data.'
            )
        size = (row["height"], row["width"])
        readings = [decode_boxes(answer, size) for answer in answers]
        for reading in readings:
            self._check_boxes(reading, row)
        objects: list[SceneObject] = [
            {"label": obj.label, "box_xyxy": list(obj.box_xyxy)} for obj in readings[0].objects
        ]
        return {"width": row["width"], "height": row["height"], "objects": objects}

    def _check_boxes(self, reading: Reading, row: Row) -> None:
        for left in reading.leftovers:
            raise UserError(f"Row `{row['id']}`: its suffix is not all boxes: {left.text!r} {left.reason}.")
        for number, one in enumerate(reading.objects, 1):
            if one.reordered:
                raise UserError(
                    f"Row `{row['id']}`: box {number} of its suffix is inverted: expected y_min, x_min, "
                    "y_max, x_max, but a maximum stands before its minimum."
                )

    def read_answer(self, answer: Answer, target: Target) -> PredictionRow:
        """Return nothing: text is scored as it is; for boxes `prediction_objects`."""
        if not self.objects:
            return {}
        size = (target["height"], target["width"])
        objects = ObjectReader().read(answer.text, size, answer.token_ends, answer.probabilities)
        return {"prediction_objects": objects}

    @property
    def fields(self) -> dict[str, object]:
        """What the prompt names, without values."""
        return dict.fromkeys(template_columns(self.prompt))

    def build_prefixes(self, fields: Row) -> tuple[str, ...]:
        """Return the prompt with these values."""
        return (
            fill_template(self.prompt, {name: check_text(name, value) for name, value in fields.items()}),
        )

    @property
    def grammars(self) -> tuple[Grammar, ...]:
        """Those that fit the task."""
        return (Grammar.auto,) if self.objects else (Grammar.yes_no, Grammar.number)

    def build_form(self, row: Row, prefix: str) -> AnswerForm:
        """Return boxes of the classes that the prompt names; with masks after `segment`.

        Raises:
            UserError: the prompt names no class.
        """
        match = _NAMES_CLASSES.fullmatch(prefix)
        if match is None:
            raise UserError(
                f"evaluation.grammar=auto: expected a prompt that names the classes, such as "
                f"`detect cat ; dog`, but got {prefix!r}."
            )
        labels = [label for label in match["labels"].split(";") if label.strip()]
        return form_objects(labels, mask=match["verb"] == "segment")

    def _answers(self, row: Row) -> tuple[str, ...]:
        answers = read_texts(row, self.answers)
        return tuple(answer.lower() for answer in answers) if self.lower else answers
