"""What an annotator said about one task of Label Studio, in the full JSON and in JSON-MIN."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from finetune.data.images import IMAGE_SUFFIXES
from finetune.data.layouts.label_studio import is_task
from finetune.data.reading.record import Record
from finetune.errors import UserError

_ABOUT = {
    *("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"),
    *("cancelled_annotations", "total_annotations", "comment_count", "history", "reviews"),
}
"""Keys of JSON-MIN about the annotation itself."""
_GEOMETRY = ({"x", "y", "width", "height"}, {"points"}, {"rle"}, {"radiusX", "radiusY"})
"""Keys of the values that place something on an image."""


class Annotation(NamedTuple):
    """One annotation of one task."""

    image: object
    """Name of the image, as Label Studio has it."""
    regions: list[Record]
    """Boxes, polygons, brushes and ellipses, with `original_width`, `original_height` and their labels."""
    texts: dict[str, list[str]]
    """Tag, or key of the task's data -> choices, texts and numbers."""
    others: int
    """Number of other annotations of the task."""


def read_annotation(task: Record, image: str | None = None) -> Annotation | None:
    """Return the first annotation of a task that was not cancelled; None without one.

    Args:
        task: of the full JSON, or a row of JSON-MIN.
        image: key of the image in its data; None: `image`, or the first that names one.

    Raises:
        UserError: the task has no image, or a result is not as expected.
    """
    if not is_task(task):
        return _read_minimal(task, image)
    listed = task.get("annotations") or task.get("completions") or []
    if not isinstance(listed, list):
        raise UserError(f"{task.where}: `annotations` must be a list.")
    annotations = [
        Record(item, f"{task.where}: annotation {number}") for number, item in enumerate(listed, 1)
    ]
    kept = [item for item in annotations if not item.get("was_cancelled")]
    kept.sort(key=lambda item: not item.get("ground_truth"))
    if not kept:
        return None
    data = task.record("data")
    regions, texts = _read_results(kept[0])
    name = _find_image(data, image)
    about = {key: list(_read_texts(value)) for key, value in data.items() if value != name}
    return Annotation(name, regions, {**about, **texts}, len(kept) - 1)


def _read_results(annotation: Record) -> tuple[list[Record], dict[str, list[str]]]:
    """Return the regions, each with the labels that other results give it, and what is about the image."""
    places: dict[str, Record] = {}
    texts: dict[str, list[str]] = {}
    results = annotation.records("result") if annotation.get("result") else []
    values = [
        (result, result.record("value")) for result in results if isinstance(result.get("value"), dict)
    ]
    for result, value in values:
        sides = {key: result.get(key) for key in ("original_width", "original_height", "image_rotation")}
        key = str(result.get("id"))
        if _is_place(value):
            places[key] = Record({**places.get(key, {}), **value, **sides}, result.where)
    for result, value in values:
        key, tag = str(result.get("id")), str(result.get("from_name"))
        if key in places:
            places[key].update({name: item for name, item in value.items() if name == "labels"})
        else:
            texts.setdefault(tag, []).extend(_read_texts(value))
    return list(places.values()), texts


def _read_minimal(task: Record, image: str | None) -> Annotation:
    regions: list[Record] = []
    texts: dict[str, list[str]] = {}
    for key, value in task.items():
        if key in _ABOUT:
            continue
        items = value if isinstance(value, list) else [value]
        placed = [item for item in items if isinstance(item, Mapping) and _is_place(item)]
        regions += [
            Record(item, f"{task.where}: `{key}` item {number}") for number, item in enumerate(placed, 1)
        ]
        if not placed:
            texts[key] = [text for item in items for text in _read_texts(item)]
    name = _find_image(task, image)
    return Annotation(name, regions, {key: each for key, each in texts.items() if task[key] != name}, 0)


def _is_place(value: Mapping[str, object]) -> bool:
    return any(keys <= value.keys() for keys in _GEOMETRY)


def _read_texts(value: object) -> Iterator[str]:
    """Yield the texts of `{"choices": [...]}`, `{"text": [...]}`, `{"rating": 3}` or a plain value."""
    if isinstance(value, Mapping):
        value = next(iter(value.values()), None)
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, list):  # a taxonomy: the path to a choice
            yield " / ".join(map(str, item))
        elif item is not None and not isinstance(item, Mapping):
            yield str(item)


def _find_image(data: Record, image: str | None) -> object:
    """Return the name of the image: under its key, under `image`, or the first value that ends as one.

    Raises:
        UserError: there is none.
    """
    if image is not None and image != "image":
        return data[image]
    named = [value for key, value in data.items() if key == "image"]
    ends = [value for value in data.values() if isinstance(value, str) and _ends_as_image(value)]
    if not (named or ends):
        raise UserError(f"{data.where}: no image; the keys are: {', '.join(data) or 'none'}.")
    return (named or ends)[0]


def _ends_as_image(name: str) -> bool:
    return PurePosixPath(name.partition("#")[0]).suffix.lower().partition("?")[0] in IMAGE_SUFFIXES
