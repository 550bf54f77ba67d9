"""ms-swift's boxes: `objects` next to the turns, and the placeholders that they replace."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from finetune.codecs.boxes import SEPARATOR, encode_boxes
from finetune.data.formats.turns import Turn
from finetune.data.images import measure_image
from finetune.data.objects import Note, build_object
from finetune.data.reading.record import Record, describe_value
from finetune.errors import UserError

REFERENCE, BOX = "<ref-object>", "<bbox>"

_SCALES = {"real": None, "norm1": 1.0, "norm1000": 1000.0}
"""`bbox_type` -> the length of a side of the image in its unit; None: pixels."""

_OBJECT = re.compile(rf"{REFERENCE}\s*[(\[]?{BOX}[)\]]?|{BOX}|{REFERENCE}")
_BETWEEN = re.compile(rf"(?<={BOX})[\s,;]*(?=(?:{REFERENCE}\s*)?{BOX})")


def fill_placeholders(
    record: Record, turns: list[Turn], names: Sequence[object], folders: Sequence[Path], clip: Note | None
) -> list[Turn]:
    """Write the objects of a conversation into its turns as PaliGemma writes them.

    `<bbox>` becomes four location tokens, and `<ref-object><bbox>` a box with its label after it; boxes in
    a row are joined by ` ; `.

    Args:
        record: the conversation, with `objects`: `ref` (names), `bbox` (x_min, y_min, x_max, y_max) and
            `bbox_type`, `real` (pixels), `norm1` or `norm1000`.
        turns: its turns, in which the placeholders stand in the order of the objects.
        names: its images.
        folders: where these are.
        clip: as in `build_object`.

    Raises:
        UserError: there are more or fewer placeholders than objects, or a box cannot be used.
    """
    marks = {mark: sum(turn.text.count(mark) for turn in turns) for mark in (REFERENCE, BOX)}
    if not record.get("objects") and not any(marks.values()):
        return turns
    if not record.get("objects"):
        used = next(mark for mark, count in marks.items() if count)
        raise UserError(f"{record.where}: it has the placeholder {used}, but no `objects` to fill it.")
    objects = record.record("objects")
    references = [str(item) for item in objects.array("ref")] if objects.get("ref") else []
    boxes = list(_write_boxes(objects, names, folders, clip))
    for mark, key, values in ((REFERENCE, "ref", references), (BOX, "bbox", boxes)):
        if marks[mark] != len(values):
            raise UserError(
                f"{objects.where}: {len(values)} in `{key}` for {marks[mark]} {mark} in the turns."
            )
    left_references, left_boxes = iter(references), iter(boxes)

    def fill(match: re.Match[str]) -> str:
        reference = next(left_references) if REFERENCE in match[0] else ""
        box = next(left_boxes) if BOX in match[0] else ""
        return f"{box} {reference}".strip()

    return [turn._replace(text=_OBJECT.sub(fill, _BETWEEN.sub(SEPARATOR, turn.text))) for turn in turns]


def _write_boxes(
    objects: Record, names: Sequence[object], folders: Sequence[Path], clip: Note | None
) -> Iterator[str]:
    """Yield each box of `objects` as location tokens."""
    kind = objects.get("bbox_type") or "real"
    if kind not in _SCALES:
        raise UserError(f"{objects.where}: `bbox_type` must be {', '.join(_SCALES)}, got {kind!r}.")
    side = _SCALES[str(kind)]
    boxes = objects.array("bbox") if objects.get("bbox") else []
    indices = objects.get("image_id") or [0] * len(boxes)
    if not isinstance(indices, list) or len(indices) != len(boxes):
        raise UserError(f"{objects.where}: `image_id` must have one number per box, got {indices!r}.")
    for number, (box, index) in enumerate(zip(boxes, indices, strict=True), 1):
        where = f"{objects.where} box {number}"
        if not isinstance(box, list) or len(box) != 4:
            raise UserError(
                f"{where}: expected x_min, y_min, x_max, y_max, got {describe_value(box)}. PaliGemma "
                "has no points."
            )
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise UserError(f"{where}: there is no image {index!r} among {len(names)}.")
        _, size = measure_image(names[index], folders, where)
        if side is not None:
            box = [value / side if isinstance(value, int | float) else value for value in box]
        item = build_object("", box, size, where, relative=side is not None, clip=clip)
        yield encode_boxes(np.array([item["box_xyxy"]]), [""], size)
