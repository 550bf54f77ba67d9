"""What the metrics read from a prediction row, and a message that names the row where it is missing."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from enum import StrEnum
from numbers import Real
from typing import Any, ClassVar, Protocol, TypeGuard, TypeVar

from finetune.errors import UserError, describe, suggest
from finetune.option import OneOf, limit_of

T = TypeVar("T")


class Options(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


MOST_TEXT = 1_000_000
"""Characters of one text; the time of edit distances grows with the square."""

MOST_SIDE = 1_000_000
"""Pixels of an image's height or width."""

MOST_COORDINATE = 1e9
"""Pixels; beyond, areas lose their precision."""


def name_row(row: Mapping[str, object]) -> str:
    """Return what identifies the row in a message: its id, and its file and line where it has them."""
    place = getattr(row, "place", None)
    row_id = row.get("id")
    if row_id is None:
        return place or "A row without an `id`"
    name = row_id if isinstance(row_id, str) and len(row_id) <= 80 else describe(row_id)
    return f"Row `{name}` ({place})" if place else f"Row `{name}`"


def read_prediction(row: Mapping[str, object]) -> str:
    """Return the predicted text; null is an empty one, a number is its text.

    Raises:
        UserError: there is none, or it is of another kind.
    """
    if "prediction" not in row:
        raise UserError(
            f"{name_row(row)}: expected `prediction` to be a string, but got nothing; the row has: "
            f"{list_keys(row)}."
        )
    value = row["prediction"]
    prediction = "" if value is None else read_text(value)
    if prediction is None:
        raise UserError(
            f"{name_row(row)}: expected `prediction` to be a string, but got {_describe_json(value)}."
        )
    if len(prediction) > MOST_TEXT:
        raise _too_long(row, "prediction", prediction)
    return prediction


def read_references(row: Mapping[str, object]) -> list[str]:
    """Return the accepted texts: at least one. A single one needs no list; a number is its text.

    Raises:
        UserError: there are none, or one is of another kind.
    """
    references = row.get("references")
    single = read_text(references)
    if single is not None:
        references = [single]
    if not isinstance(references, Sequence) or not references:
        raise _no_references(row, references)
    texts = []
    for reference in references:
        text = read_text(reference)
        if text is None:
            raise _no_references(row, references)
        if len(text) > MOST_TEXT:
            raise _too_long(row, "references", text)
        texts.append(text)
    return texts


def read_text(value: object) -> str | None:
    """Return a text; of a number its JSON, as many programs write the answer 3; None for others."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, int | float) and _is_number(value) else None


def parse_references(row: Mapping[str, object], read: Callable[[str], T | None], expected: str) -> list[T]:
    """Return what the references say.

    Args:
        row: the row.
        read: returns what a text says; None where it says nothing that the metric can compare.
        expected: for a message: what a reference must do, with an example.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    values = []
    for reference in read_references(row):
        value = read(reference)
        if value is None:
            raise UserError(
                f"{name_row(row)}: expected the reference to {expected}, but got {reference!r}."
            )
        values.append(value)
    return values


def read_group(row: Mapping[str, object]) -> str | None:
    """Return the row's group as text, or None where it has none.

    Raises:
        UserError: it is a list or an object.
    """
    group = row.get("group")
    if group is None or isinstance(group, str):
        return group
    if isinstance(group, Sequence | Mapping):
        raise UserError(f"{name_row(row)}: expected `group` to be a string, but got {describe(group)}.")
    return str(group)


def require_group(row: Mapping[str, object]) -> str:
    """Return the row's group.

    Raises:
        UserError: it has none.
    """
    group = read_group(row)
    if group is None:
        raise UserError(f"{name_row(row)}: this metric needs a `group` in every row, but it has none.")
    return group


def read_objects(row: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    """Return the objects under `objects` or `prediction_objects`; the list may be empty.

    Raises:
        UserError: the key is missing, or is not a list of JSON objects.
    """
    objects = row.get(key)
    if (
        not isinstance(objects, Sequence)
        or isinstance(objects, str)
        or not all(isinstance(one, Mapping) for one in objects)
    ):
        decode = " Decode them from `prediction` first." if key == "prediction_objects" else ""
        got = describe(objects) if key in row else f"nothing; the row has: {list_keys(row)}"
        raise UserError(
            f"{name_row(row)}: expected `{key}` to be a list of objects, but got {got}.{decode}"
        )
    return list(objects)


def read_box(row: Mapping[str, object], one: Mapping[str, object]) -> tuple[float, float, float, float]:
    """Return an object's box, pixels: x_min, y_min, x_max, y_max; COCO's `bbox` in place of `box_xyxy`.

    Raises:
        UserError: there is no box, or it is not four finite numbers.
    """
    box = one.get("box_xyxy")
    if box is None and (coco := one.get("bbox")) is not None:
        x, y, width, height = _read_numbers(row, coco, "`bbox` to be COCO's x, y, width, height in pixels")
        return x, y, x + width, y + height
    expected = "`box_xyxy` to be four numbers, x_min, y_min, x_max, y_max in pixels"
    if box is None and one:
        raise UserError(
            f"{name_row(row)}: expected {expected}, but got nothing; the object has: {list_keys(one)}."
        )
    return _read_numbers(row, box, expected)


def _read_numbers(
    row: Mapping[str, object], box: object, expected: str
) -> tuple[float, float, float, float]:
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_number, box)):
        raise UserError(f"{name_row(row)}: expected {expected}, but got {describe(box)}.")
    # NaN is refused too; an integer that is too large for a float can be compared all the same.
    if not all(abs(value) <= MOST_COORDINATE for value in box):
        raise UserError(
            f"{name_row(row)}: expected {expected}, but it is not finite or beyond any image: "
            f"{describe(box)}."
        )
    a, b, c, d = map(float, box)
    return a, b, c, d


def read_size(row: Mapping[str, object]) -> tuple[int, int] | None:
    """Return the image's height and width in pixels, or None where the row does not have both.

    Raises:
        UserError: one of them is not a whole number of pixels.
    """
    height, width = _read_side(row, "height"), _read_side(row, "width")
    return None if height is None or width is None else (height, width)


def _read_side(row: Mapping[str, object], key: str) -> int | None:
    side = row.get(key)
    if side is None:
        return None
    if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= MOST_SIDE:
        raise UserError(
            f"{name_row(row)}: expected `{key}` to be a whole number of pixels, 1 to {MOST_SIDE:,}, "
            f"but got {describe(side)}."
        )
    return side


def read_number(row: Mapping[str, object], key: str, value: object) -> float:
    """Return a number of an object or a row.

    Raises:
        UserError: it is not a finite number.
    """
    if not _is_number(value) or not abs(value) <= MOST_COORDINATE**2:
        raise UserError(f"{name_row(row)}: expected `{key}` to be a number, but got {describe(value)}.")
    return float(value)


def check_choices(metric: Options) -> None:
    """Raise unless every option that has a choice of values has one of them.

    Hydra's config makes sure of it; Python code may pass any text.

    Raises:
        UserError: an option has another value; the message lists those that it may have.
    """
    for field in fields(metric):
        limit, value = limit_of(field), getattr(metric, field.name)
        known: Sequence[object] = limit.values if isinstance(limit, OneOf) else ()
        if isinstance(field.type, type) and issubclass(field.type, StrEnum):
            known = list(field.type)
        if known and value not in known:
            names = list(map(str, known))
            raise UserError(
                f"metric.{field.name}={value} is not known.{suggest(str(value), names)} It is one of: "
                f"{', '.join(names)}."
            )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _no_references(row: Mapping[str, object], references: object) -> UserError:
    got = _describe_json(references) if "references" in row else f"nothing; the row has: {list_keys(row)}"
    return UserError(
        f"{name_row(row)}: expected `references` to be a string or a list of them, but got {got}."
    )


def _too_long(row: Mapping[str, object], key: str, text: str) -> UserError:
    return UserError(
        f"{name_row(row)}: expected texts of at most {MOST_TEXT:,} characters, but `{key}` has one of "
        f"{len(text):,}. Cut it."
    )


def list_keys(row: Mapping[str, object]) -> str:
    """Return what a row or an object has instead of what is missing, for a message."""
    names = [f"`{describe(name)[1:-1]}`" for name in list(row)[:12]]
    listed = ", ".join([*names, "..."] if len(row) > 12 else names) or "nothing"
    coco = ""
    if {"images", "annotations"} <= set(row):
        coco = " (COCO's ground truth: name it with ground_truth=FILE, and its results with predictions=)"
    elif {"image_id", "bbox"} <= set(row):
        coco = " (COCO's results: name their ground truth with ground_truth=FILE)"
    return f"{listed}{coco}"


def _describe_json(value: object) -> str:
    return "null" if value is None else describe(value)
