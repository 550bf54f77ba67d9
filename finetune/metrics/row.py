"""What the metrics read from a prediction row, and a message that names the row where it is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError, suggest

DIVISORS = (1023, 1024)
"""What a location token may be divided by; boxes that are decoded already do not show which it was."""


def name_row(row: Mapping[str, Any]) -> str:
    """Return the row's id for a message."""
    return f"Row `{row.get('id')}`"


def read_prediction(row: Mapping[str, Any]) -> str:
    """Return the predicted text.

    Raises:
        UserError: there is none.
    """
    prediction = row.get("prediction")
    if not isinstance(prediction, str):
        raise UserError(
            f"{name_row(row)}: expected `prediction` to be a string, but got {_describe(prediction)}."
        )
    return prediction


def read_references(row: Mapping[str, Any]) -> list[str]:
    """Return the accepted texts: at least one.

    Raises:
        UserError: there are none, or they are not a list of strings.
    """
    references = row.get("references")
    if (
        not isinstance(references, Sequence)
        or isinstance(references, str)
        or not references
        or not all(isinstance(reference, str) for reference in references)
    ):
        raise UserError(
            f"{name_row(row)}: expected `references` to be a list of one string or more, but got "
            f"{_describe(references)}."
        )
    return list(references)


def read_group(row: Mapping[str, Any]) -> str:
    """Return the row's group.

    Raises:
        UserError: it has none.
    """
    group = row.get("group")
    if group is None:
        raise UserError(f"{name_row(row)}: this metric needs a `group` in every row, but it has none.")
    return str(group)


def read_objects(row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the objects under `objects` or `prediction_objects`; the list may be empty.

    Raises:
        UserError: the key is missing, or is not a list of JSON objects.
    """
    objects = row.get(key)
    if not isinstance(objects, Sequence) or not all(isinstance(one, Mapping) for one in objects):
        decode = " Decode them from `prediction` first." if key == "prediction_objects" else ""
        raise UserError(
            f"{name_row(row)}: expected `{key}` to be a list of objects, but got "
            f"{_describe(objects)}.{decode}"
        )
    return list(objects)


def read_box(row: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return an object's box, pixels: x_min, y_min, x_max, y_max.

    Raises:
        UserError: there is no box, or it is not four finite numbers.
    """
    box = one.get("box_xyxy")
    try:
        x0, y0, x1, y1 = (float(value) for value in box)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise UserError(
            f"{name_row(row)}: expected `box_xyxy` to be four numbers, x_min, y_min, x_max, y_max in "
            f"pixels, but got {_describe(box)}."
        ) from None
    if not all(abs(value) < float("inf") for value in (x0, y0, x1, y1)):
        raise UserError(f"{name_row(row)}: `box_xyxy` is not finite: {_describe(box)}.")
    return x0, y0, x1, y1


def check_option(option: str, value: object, known: Sequence[object]) -> None:
    """Raise unless an option has one of its values.

    Raises:
        UserError: it has not; the message lists them.
    """
    if value not in known:
        names = [str(one) for one in known]
        raise UserError(
            f"metric.{option}={value} is not known.{suggest(str(value), names)} It is one of: "
            f"{', '.join(names)}."
        )


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
