"""Where things are: detection, segmentation, and what an expression refers to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from finetune.codecs.boxes import CODES_PER_MASK, encode_boxes
from finetune.codecs.objects import ObjectReader
from finetune.errors import UserError, suggest
from finetune.tasks.task import Answer, Row, Text, check_columns, fill_template, template_columns

ASKED = "label"
"""Under `classes=one`: the column with the class that a row asks for."""


@dataclass(frozen=True)
class ObjectsTask:
    """How a picture's objects become a prefix and one suffix of boxes, or boxes and masks.

    Args:
        prompt: the prefix: columns in braces, and `{labels}` for the classes asked for.
        labels: the classes, in the order of the prompt; null: none.
        classes: which of them a prompt names: `all`, those `present` in the picture, or `one`, the row's
            column `label`.
        order: of the objects: `given`, `random` in each epoch, or `left_to_right`.
        write_label: write each object's class behind it.
        masks: write masks too.
        mask_vae: file of the mask VAE's weights.
        negatives: of the classes that a picture lacks, how many are asked for in training under
            `classes=one`, for whoever makes the rows (`data/examples/classes.py`); not read here.
        divisor: what location tokens are divided by when an answer is read: 1023 or 1024.
        reading: of answers, `lenient` or `official`: the metric's, handed on by whoever builds both.
    """

    prompt: str
    labels: Sequence[str] | None = None
    classes: str = "all"
    negatives: int = 0
    order: str = "given"
    write_label: bool = True
    masks: bool = False
    mask_vae: str | None = None
    divisor: int = 1023
    reading: str = "lenient"

    def check_columns(self, columns: list[str]) -> None:
        """Raise if the rows lack a column that the task reads.

        Raises:
            UserError: a column is missing; the message lists those there are.
        """
        names = [name for name in template_columns(self.prompt) if name != "labels"]
        wanted = dict.fromkeys(names, f"task.prompt={self.prompt!r}")
        from_source = dict.fromkeys(("objects", "width", "height"), "every source of boxes has it")
        if self.classes == "one":
            wanted[ASKED] = "task.classes=one; parts of a mixture do not have it"
        check_columns({**wanted, **from_source}, columns)

    def build_text(self, row: Row, draw: Random | None = None) -> Text:
        """Return the classes asked for, and the objects as text; an empty suffix where there are none.

        Raises:
            UserError: an object's class is not in the list, its box cannot be written, it has no mask, or
                a column that the prompt names is null.
        """
        objects = self._arrange(self._wanted(row), draw)
        codes = self._encode_masks(objects, row) if self.masks and objects else None
        return Text(self._prefix(row), (self._write(objects, row, codes),))

    def measure_text(self, row: Row) -> Text:
        """Return text of the same length, with the same code for every mask.

        Raises:
            UserError: as in `build_text`.
        """
        objects = self._wanted(row)
        codes = [[0] * CODES_PER_MASK] * len(objects) if self.masks else None
        text = Text(self._prefix(row), (self._write(objects, row, codes),))
        if self.masks:
            self._check_masks(objects, row)
        return text

    def build_target(self, row: Row) -> dict[str, Any]:
        """Return `width`, `height` and `objects`, crowds among them."""
        asked = row.get(ASKED) if self.classes == "one" else None
        objects = [
            {name: value for name, value in one.items() if value is not None}
            for one in row["objects"]
            if asked is None or one["label"] == asked
        ]
        return {"width": row["width"], "height": row["height"], "objects": objects}

    def read_answer(self, answer: Answer, target: Mapping[str, Any]) -> dict[str, Any]:
        """Return `prediction_objects`: every object that can be read, with its score."""
        size = (target["height"], target["width"])
        found = self._reader.read(answer.text, size, answer.token_ends, answer.probabilities)
        return {"prediction_objects": found}

    @cached_property
    def _reader(self) -> ObjectReader:
        return ObjectReader(self.divisor, self.mask_vae if self.masks else None, self.reading)

    def _wanted(self, row: Row) -> list[Mapping[str, Any]]:
        """Return the objects to write: no crowds, and only what is asked for."""
        objects = [one for one in row["objects"] if not one["iscrowd"]]
        if self.labels is not None and self.write_label:
            for one in objects:
                if one["label"] not in self.labels:
                    hint = suggest(one["label"], list(self.labels))
                    raise UserError(
                        f"Row `{row['id']}`: class `{one['label']}` is not in task.labels.{hint} They are: "
                        f"{list_names(self.labels)}."
                    )
        if self.classes == "one":
            objects = [one for one in objects if one["label"] == row[ASKED]]
        for one in objects:
            if self.masks and one["mask_rle"] is None:
                raise UserError(f"Row `{row['id']}`: object `{one['label']}` has no mask to learn from.")
        return objects

    def _prefix(self, row: Row) -> str:
        if "labels" not in template_columns(self.prompt):
            return fill_template(self.prompt, row)
        if self.classes == "one":
            asked: Sequence[str] = [row[ASKED]]
        else:
            asked = self.labels or ()
            if self.classes == "present":
                present = {one["label"] for one in self._wanted(row)}
                asked = [label for label in asked if label in present]
        return fill_template(self.prompt, row, labels=" ; ".join(asked))

    def _arrange(self, objects: list[Mapping[str, Any]], draw: Random | None) -> list[Mapping[str, Any]]:
        if self.order == "left_to_right":
            return sorted(objects, key=lambda one: (one["box_xyxy"][0], one["box_xyxy"][1]))
        if self.order == "random" and draw is not None:
            return draw.sample(objects, len(objects))
        return objects

    def _write(
        self, objects: Sequence[Mapping[str, Any]], row: Row, codes: Sequence[Sequence[int]] | None
    ) -> str:
        boxes = np.array([one["box_xyxy"] for one in objects], dtype=np.float64).reshape(-1, 4)
        labels = [one["label"] if self.write_label else "" for one in objects]
        try:
            return encode_boxes(boxes, labels, (row["height"], row["width"]), codes)
        except ValueError as error:
            raise UserError(f"Row `{row['id']}`: {error}") from error

    def _check_masks(self, objects: Sequence[Mapping[str, Any]], row: Row) -> None:
        """Find what `_encode_masks` would refuse, without drawing a mask."""
        from finetune.codecs.masks import has_pixels

        for number, one in enumerate(objects):
            box = one["box_xyxy"]
            try:
                seen = has_pixels(one["mask_rle"], np.asarray(box), (row["height"], row["width"]))
            except ValueError as error:
                raise UserError(f"Row `{row['id']}`: object `{one['label']}`: {error}") from error
            if not seen:
                raise UserError(
                    f"Row `{row['id']}`: Expected mask {number} to have pixels in its box {list(box)}, but "
                    "got none."
                )

    def _encode_masks(self, objects: Sequence[Mapping[str, Any]], row: Row) -> list[list[int]]:
        from finetune.codecs.coco_mask import decode_rle
        from finetune.codecs.masks import encode_mask_codes

        size = (row["height"], row["width"])
        masks = [decode_rle(one["mask_rle"], size) for one in objects]
        boxes = np.array([one["box_xyxy"] for one in objects], dtype=np.float64)
        try:
            codes: list[list[int]] = encode_mask_codes(masks, boxes, self._vae).tolist()
        except ValueError as error:
            raise UserError(f"Row `{row['id']}`: {error}") from error
        return codes

    @cached_property
    def _vae(self) -> Any:
        from finetune.codecs.mask_vae import load_mask_vae

        if self.mask_vae is None:
            raise UserError("Masks need task.mask_vae: published, own, or a file of weights.")
        return load_mask_vae(Path(self.mask_vae))


def list_names(names: Sequence[str], most: int = 20) -> str:
    """Return names as a list for a message, cut where there are many."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
