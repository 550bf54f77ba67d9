"""Whether the objects of an export have masks, or boxes alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from finetune.data.layouts.peek import peek_json
from finetune.data.layouts.splits import list_folder
from finetune.data.layouts.yolo import CLASS_LISTS, read_yaml
from finetune.data.reading.json import open_text
from finetune.data.reading.json_stream import JsonStream
from finetune.data.recognition.kinds import Kind

_MOST_OBJECTS = 5000
_MOST_FILES = 200
_CHUNK = 1 << 20
_CVAT_SHAPE = re.compile(r"<(box|polygon|mask|ellipse)\s")
_BOX = 5
"""Numbers in a line of YOLO's boxes: class, center and sides."""


def kind_of_shapes(has_mask: Sequence[bool]) -> Kind:
    """Return the kind of objects of which some or all have masks: a mask has a box, but not vice versa."""
    return Kind.segmentation if has_mask and all(has_mask) else Kind.detection


def recognize_coco(file: str) -> Kind:
    """Return the kind of COCO's JSON.

    Raises:
        UserError: it is not whole JSON.
    """
    return kind_of_shapes([_has_mask(item) for item in islice(_annotations(Path(file)), _MOST_OBJECTS)])


def _annotations(file: Path) -> Iterator[Mapping[str, object]]:
    with open_text(file) as stream:
        reader = JsonStream(stream, file, "annotations")
        for key in reader.object():
            if key == "annotations":
                yield from (
                    item.value for item in reader.array(reader.value) if isinstance(item.value, dict)
                )
                return
            reader.skip()


def _has_mask(annotation: Mapping[str, object]) -> bool:
    """Return whether an annotation has an outline; some tools write the corners of its box as one."""
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        return True
    if not isinstance(outline, list) or not outline:
        return False
    numbers = outline[0]
    if len(outline) > 1 or not isinstance(numbers, list) or len(numbers) not in {8, 10}:
        return True
    return len(set(numbers[::2])) > 2 or len(set(numbers[1::2])) > 2


def recognize_yolo(place: str) -> Kind:
    """Return the kind of YOLO's text files: five numbers in a line are a box, more are a polygon."""
    path = Path(place)
    content = read_yaml(path) if path.is_file() and path.suffix.lower() in {".yaml", ".yml"} else {}
    if content.get("kpt_shape") or content.get("task") == "obb":
        return Kind.detection
    top = path if path.is_dir() else path.parent
    named = top / str(content.get("path") or "")
    files = (
        file for file in (named if named.is_dir() else top).rglob("*.txt") if file.name not in CLASS_LISTS
    )
    counts = chain.from_iterable(map(_count_numbers, islice(files, _MOST_FILES)))
    return kind_of_shapes([count > _BOX for count in islice(counts, _MOST_OBJECTS)])


def _count_numbers(file: Path) -> Iterator[int]:
    """Yield the number of values of each line that has numbers alone."""
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        values = line.split()
        if len(values) >= _BOX and all(re.fullmatch(r"[-+0-9.eE]+", value) for value in values):
            yield len(values)


def recognize_cvat(file: str) -> Kind:
    """Return the kind of CVAT's XML."""
    shapes: list[bool] = []
    with open_text(Path(file)) as stream:
        rest = ""
        while chunk := stream.read(_CHUNK):
            text = rest + chunk
            shapes += [shape != "box" for shape in _CVAT_SHAPE.findall(text)]
            rest = text[text.rfind("<") :] if ">" not in text[text.rfind("<") :] else ""
    return kind_of_shapes(shapes)


def recognize_labelme(place: str) -> Kind:
    """Return the kind of labelme's JSON files."""
    path = Path(place)
    files = (
        [path] if path.is_file() else [file for file in list_folder(path) if file.suffix.lower() == ".json"]
    )
    shapes = []
    for file in files[:_MOST_FILES]:
        peek = peek_json(file)
        first = peek.first.get("shapes") if peek is not None else None
        if isinstance(first, dict):
            shapes.append(first.get("shape_type") != "rectangle")
    return kind_of_shapes(shapes)
