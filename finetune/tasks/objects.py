"""Where things are: detection, segmentation, and what an expression refers to."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import numpy as np

from finetune.codecs.boxes import CODES_PER_MASK, encode_boxes
from finetune.codecs.objects import ObjectReader, form_objects
from finetune.errors import UserError, suggest
from finetune.example import AnswerForm, PredictionRow, SceneObject
from finetune.option import MAY_BE_EMPTY, OneOf, Range, option
from finetune.tasks.asking import check_text, check_texts
from finetune.tasks.grammar import Grammar
from finetune.tasks.mixture import parts_of
from finetune.tasks.task import (
    Answer,
    Row,
    Target,
    Task,
    Text,
    check_columns,
    fill_template,
    read_template,
    template_columns,
    template_problems,
)

ASKED = "label"
"""Under `classes=one`: the column with the class that a row asks for."""


class PromptClasses(StrEnum):
    """Classes that a prompt names."""

    all = "all"
    present = "present"
    one = "one"


class ObjectOrder(StrEnum):
    """Orders of the objects in a suffix."""

    given = "given"
    random = "random"
    left_to_right = "left_to_right"


@dataclass(frozen=True)
class ObjectsOptions:
    """Boxes, and masks inside them."""

    prompt: str = option("detect {labels}", MAY_BE_EMPTY)
    """The prefix: columns in braces, and `{labels}` for the classes asked for, joined by ` ; `."""
    labels: list[str] | None = None
    """The classes, in the order of the prompt. Null: all that the training split has."""
    classes: PromptClasses = PromptClasses.all
    """Classes that a prompt names: `all`; those `present` in the image, which tells the model what
    is there; or `one`: every class of an image is an example of its own."""
    negatives: int = option(0, Range(0, 1e6))
    """Under `classes=one`: of the classes that an image lacks, how many are asked for while training,
    with an empty answer. Evaluation asks for all of them."""
    order: ObjectOrder = ObjectOrder.given
    """Order of the objects: as `given`, `random` in each epoch (the paper's detection), or
    `left_to_right`."""
    write_label: bool = True
    """Write the class after each object; not where an expression refers to one thing."""
    masks: bool = False
    """Write the mask of each object inside its box."""
    mask_vae: str | None = None
    """Weights of the mask codec: `published` (big_vision's, downloaded at first use), `own` (trained on
    the training split's masks at first use), or a file."""
    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by when an answer is read: 1023, or 1024."""

    @property
    def object_options(self) -> "ObjectsOptions":
        """These options."""
        return self

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield what is wrong in the templates."""
        yield from template_problems({"prompt": self.prompt}, prefix)

    def build(self) -> "ObjectsTask":
        """Return the task; `mask_vae=own` needs the file of the weights before masks are written."""
        return ObjectsTask(self, ObjectReader(self.divisor, self.mask_vae if self.masks else None))

    @property
    def needs_classes(self) -> bool:
        """Whether prompt or answers have classes, and those of the training split are taken."""
        named = "labels" in template_columns(self.prompt)
        is_read = named or self.write_label or self.classes == PromptClasses.one
        return is_read and self.labels is None

    @property
    def needs_training_rows(self) -> bool:
        """Whether classes, or the weights of the mask codec, are taken from the training split."""
        return self.needs_classes or (self.masks and self.mask_vae == "own")

    @property
    def grammars(self) -> tuple[Grammar, ...]:
        """Those that fit the task."""
        return (Grammar.auto,)

    def ask_classes(self, row: Row, training: bool) -> list[str]:
        """Return the classes that one image is asked for under `classes=one`, in the order of `labels`."""
        present = {obj["label"] for obj in row["objects"] if not obj["iscrowd"]}
        absent = [label for label in self.labels or () if label not in present]
        if training:
            draw = random.Random(f"0 {row['id']}")
            absent = draw.sample(absent, min(self.negatives, len(absent)))
        asked = present.union(absent)
        return [label for label in self.labels or () if label in asked]


@dataclass(frozen=True)
class ObjectsTask:
    """How an image's objects become a prefix and one suffix of boxes, or boxes and masks.

    Args:
        options: what is asked and written; its classes are filled in.
        reader: reads answers, and has the codec that masks are written with.
        classes_found: whether the classes are those of the training split, because `labels` names none.
    """

    options: ObjectsOptions
    reader: ObjectReader
    classes_found: bool = False

    def check_columns(self, columns: list[str]) -> None:
        """Raise if a column is missing; the message lists those there are."""
        names = [name for name in template_columns(self.options.prompt) if name != "labels"]
        wanted = dict.fromkeys(names, f"task.prompt={self.options.prompt!r}")
        from_source = dict.fromkeys(("objects", "width", "height"), "every source of boxes has it")
        if self.options.classes == PromptClasses.one:
            wanted[ASKED] = "task.classes=one; parts of a mixture do not have it"
        check_columns({**wanted, **from_source}, columns)

    def build_text(self, row: Row, draw: Random | None = None) -> Text:
        """Return the classes asked for, and the objects as text; an empty suffix where there are none.

        Raises:
            UserError: an object's class is not in the list, its box cannot be written, it has no mask, or
                a column that the prompt names is null.
        """
        objects = self._arrange(self._wanted(row), draw)
        codes = self._encode_masks(objects, row) if self.options.masks and objects else None
        return Text(self._prefix(row), (self._write(objects, row, codes),))

    def measure_text(self, row: Row) -> Text:
        """Return text of the same length, with the same code for every mask."""
        objects = self._wanted(row)
        codes = [[0] * CODES_PER_MASK] * len(objects) if self.options.masks else None
        text = Text(self._prefix(row), (self._write(objects, row, codes),))
        if self.options.masks:
            self._check_masks(objects, row)
        return text

    def build_target(self, row: Row) -> PredictionRow:
        """Return `width`, `height` and `objects`, crowds among them."""
        asked = row.get(ASKED) if self.options.classes == PromptClasses.one else None
        objects: list[SceneObject] = [
            {name: value for name, value in obj.items() if value is not None}  # type: ignore[misc]
            for obj in row["objects"]
            if asked is None or obj["label"] == asked
        ]
        return {"width": row["width"], "height": row["height"], "objects": objects}

    def read_answer(self, answer: Answer, target: Target) -> PredictionRow:
        """Return `prediction_objects`: every object that can be read, with its score."""
        size = (target["height"], target["width"])
        objects = self.reader.read(answer.text, size, answer.token_ends, answer.probabilities)
        return {"prediction_objects": objects}

    @property
    def fields(self) -> dict[str, object]:
        """What the prompt names; the classes have those of the task as their value."""
        values = dict.fromkeys(template_columns(self.options.prompt))
        return {name: self.options.labels if name == "labels" else None for name in values}

    def build_prefixes(self, fields: Row) -> tuple[str, ...]:
        """Return the prompt with these values; under `classes=one` a prompt for each class.

        Raises:
            UserError: a class is not the task's.
        """
        texts = {name: check_text(name, value) for name, value in fields.items() if name != "labels"}
        if "labels" not in fields:
            return (fill_template(self.options.prompt, texts),)
        labels = check_texts("labels", fields["labels"])
        for label in labels:
            if self.options.labels is not None and label not in self.options.labels:
                raise UserError(
                    f"labels: the task has no class `{label}`.{suggest(label, self.options.labels)} They "
                    f"are: {list_names(self.options.labels)}."
                )
        groups = [[label] for label in labels] if self.options.classes == PromptClasses.one else [labels]
        return tuple(
            fill_template(self.options.prompt, texts, labels=" ; ".join(names)) for names in groups
        )

    @property
    def grammars(self) -> tuple[Grammar, ...]:
        """Those that fit the task."""
        return self.options.grammars

    def build_form(self, row: Row, prefix: str) -> AnswerForm:
        """Return objects of the classes that the prompt names, or of all classes where it names none.

        Raises:
            UserError: no classes are known.
        """
        if not self.options.write_label:
            return form_objects([""], self.options.masks)
        labels = read_template(self.options.prompt, prefix).get("labels")
        known = self.options.labels if labels is None else [name for name in labels.split(" ; ") if name]
        if known is None:
            raise UserError(
                f"evaluation.grammar=auto: the classes are not known. Name them: task.labels=[cat,dog], or "
                f"a prompt like {self.options.prompt!r}."
            )
        return form_objects(known, self.options.masks)

    def _wanted(self, row: Row) -> list[SceneObject]:
        """Return the objects to write: no crowds, and only what is asked for."""
        objects = [obj for obj in row["objects"] if not obj["iscrowd"]]
        if self.options.labels is not None and self.options.write_label:
            for obj in objects:
                if obj["label"] not in self.options.labels:
                    hint = suggest(obj["label"], list(self.options.labels))
                    raise UserError(
                        f"Row `{row['id']}`: class `{obj['label']}` is not in task.labels.{hint} They are: "
                        f"{list_names(self.options.labels)}."
                    )
        if self.options.classes == PromptClasses.one:
            objects = [obj for obj in objects if obj["label"] == row[ASKED]]
        for obj in objects:
            if self.options.masks and obj["mask_rle"] is None:
                raise UserError(f"Row `{row['id']}`: object `{obj['label']}` has no mask to learn from.")
        return objects

    def _prefix(self, row: Row) -> str:
        if "labels" not in template_columns(self.options.prompt):
            return fill_template(self.options.prompt, row)
        if self.options.classes == PromptClasses.one:
            asked: Sequence[str] = [row[ASKED]]
        else:
            asked = self.options.labels or ()
            if self.options.classes == PromptClasses.present:
                present = {obj["label"] for obj in self._wanted(row)}
                asked = [label for label in asked if label in present]
        return fill_template(self.options.prompt, row, labels=" ; ".join(asked))

    def _arrange(self, objects: list[SceneObject], draw: Random | None) -> list[SceneObject]:
        if self.options.order == ObjectOrder.left_to_right:
            return sorted(objects, key=lambda obj: (obj["box_xyxy"][0], obj["box_xyxy"][1]))
        if self.options.order == ObjectOrder.random and draw is not None:
            return draw.sample(objects, len(objects))
        return objects

    def _write(
        self, objects: Sequence[SceneObject], row: Row, codes: Sequence[Sequence[int]] | None
    ) -> str:
        boxes = np.array([obj["box_xyxy"] for obj in objects], dtype=np.float64).reshape(-1, 4)
        labels = [obj["label"] if self.options.write_label else "" for obj in objects]
        try:
            return encode_boxes(boxes, labels, (row["height"], row["width"]), codes)
        except ValueError as error:
            raise UserError(f"Row `{row['id']}`: {error}") from error

    def _check_masks(self, objects: Sequence[SceneObject], row: Row) -> None:
        """Find what `_encode_masks` would refuse, without drawing a mask."""
        from finetune.codecs.masks import has_pixels

        for number, obj in enumerate(objects):
            box = obj["box_xyxy"]
            try:
                seen = has_pixels(obj["mask_rle"], np.asarray(box), (row["height"], row["width"]))
            except ValueError as error:
                raise UserError(f"Row `{row['id']}`: object `{obj['label']}`: {error}") from error
            if not seen:
                raise UserError(
                    f"Row `{row['id']}`: Expected mask {number} to have pixels in its box {list(box)}, but "
                    "got none."
                )

    def _encode_masks(self, objects: Sequence[SceneObject], row: Row) -> list[list[int]]:
        from finetune.codecs.masks import encode_mask_codes
        from finetune.codecs.rle import decode_rle

        if self.reader.mask_vae is None:
            raise UserError("Masks need task.mask_vae: published, own, or a file of weights.")
        size = (row["height"], row["width"])
        masks = [decode_rle(obj["mask_rle"], size) for obj in objects]
        boxes = np.array([obj["box_xyxy"] for obj in objects], dtype=np.float64)
        try:
            codes: list[list[int]] = encode_mask_codes(masks, boxes, self.reader.vae).tolist()
        except ValueError as error:
            raise UserError(f"Row `{row['id']}`: {error}") from error
        return codes


def list_names(names: Sequence[str], most: int = 20) -> str:
    """Return names as a list for a message, cut where there are many."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def object_tasks(task: Task) -> dict[str, ObjectsTask]:
    """Return those tasks of a run that are about objects, by the names of its parts."""
    return {name: part for name, part in parts_of(task).items() if isinstance(part, ObjectsTask)}
