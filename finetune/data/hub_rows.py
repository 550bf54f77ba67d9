"""Rows of any parquet dataset converted to our columns, each value checked."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from datasets import ClassLabel, Features, Image, List, Value

from finetune.data.images import Picture
from finetune.data.objects import OBJECTS, build_object
from finetune.data.published import HubObjects
from finetune.data.reading.record import Record, describe_value, is_integer, is_number, is_text
from finetune.data.rows import PICTURE, Row
from finetune.errors import UserError

LISTS = ("answers", "captions", "choices")
"""Our columns that are lists of strings, whatever the dataset has."""

_ASKS = ("question", "expression")
"""Our columns that have a text in every row."""
_TEXTS = ("string", "large_string", "string_view")


def holds_images(kind: object) -> bool:
    """Return whether a column has images inside the rows, or paths in the folder of the dataset."""
    return isinstance(kind, Image) or (isinstance(kind, dict) and {"bytes", "path"} <= kind.keys())


@dataclass
class Shaper:
    """Converts one row of a dataset to one of ours.

    Raises:
        UserError: a column of the dataset is of a type that cannot be converted.
    """

    columns: Mapping[str, str]
    """Our name -> the dataset's."""
    objects: HubObjects
    """Where its boxes are."""
    theirs: Features
    """The features of the dataset's columns."""
    where: str
    """Dataset and split, for error messages."""
    folders: tuple[str, ...]
    """The folders of images that a row may name by path."""

    def __post_init__(self) -> None:
        text, number = Value("string"), Value("int32")
        ours: dict[str, object] = {"id": text, "group": text}
        for name, their in self.columns.items():
            ours[name] = self._find_kind(name, self.theirs[their])
        if self.objects.boxes is not None:
            ours |= {"width": number, "height": number, "objects": OBJECTS}
        self.features = Features(ours)
        self.labels = _label_names(self.theirs, self.objects.labels)

    def _find_kind(self, name: str, kind: object) -> object:
        """Return the feature of one of our columns."""
        text = Value("string")
        fixed = {"id": text, "group": text, "answer": Value("int32"), **dict.fromkeys(LISTS, List(text))}
        if name in fixed:
            return fixed[name]
        if name == "image" and not holds_images(kind):
            raise UserError(
                f"{self.where}: column `{self.columns[name]}`: expected images inside the rows, got {kind}."
                " Paths are read by dataset=table; addresses are never fetched."
            )
        if name == "image":
            return PICTURE
        listed = isinstance(kind, List) and _is_textual(kind.feature)
        other = name == "images" or (name not in _ASKS and (listed or _is_number(kind)))
        if not _is_textual(kind) and not other:
            raise UserError(f"{self.where}: column `{self.columns[name]}`: expected texts, got {kind}.")
        return text if _is_textual(kind) else kind

    def __call__(self, row: Row, index: int) -> Row:
        """Return the converted row.

        Raises:
            UserError: a value cannot be used.
        """
        where = f"{self.where}, row {index}"
        values: dict[str, object] = {"id": str(index), "group": None}
        for name, their in self.columns.items():
            values[name] = self._convert(name, their, row[their], f"{where}: column `{their}`")
        choices, answer = values.get("choices"), values.get("answer")
        if isinstance(choices, list) and isinstance(answer, int) and not 0 <= answer < len(choices):
            raise UserError(f"{where}: `answer`: there is no choice {answer} among {len(choices)}.")
        if self.objects.boxes is not None:
            image = cast(Mapping[str, object], values["image"])
            values |= self._build_objects(row, where, image, self.objects.boxes)
        return values

    def _convert(self, name: str, their: str, value: object, where: str) -> object:
        """Return one value converted for our column."""
        kind = self.theirs[their]
        if isinstance(kind, ClassLabel) and value is not None:
            value = _name_class(value, kind.names, where)
        if name == "image":
            return self._check_image(value, where)
        if name == "images":
            if not isinstance(value, list) or not value:
                raise UserError(f"{where}: expected images, got {describe_value(value)}.")
            return [self._check_image(image, where) for image in value]
        if name in LISTS:
            return _texts(value, where, all_needed=name == "choices")
        if name == "answer":
            answer = to_index(value, where)
            if answer is not None and abs(answer) >= 1 << 31:
                raise UserError(f"{where}: expected the index of a choice, got {describe_value(value)}.")
            return answer
        if name in _ASKS and not is_text(value):
            raise UserError(f"{where}: expected a text, got {describe_value(value)}.")
        if name == "id" or (name == "group" and value is not None):
            return Record({their: value}, where.rpartition(": column ")[0]).identifier(their)
        return value

    def _check_image(self, value: object, where: str) -> dict[str, object]:
        """Return bytes and path of an image; a file must belong to the dataset."""
        image = value if isinstance(value, Mapping) else {}
        data, path = image.get("bytes"), image.get("path")
        if data is not None:
            return {"bytes": data, "path": path}
        if not isinstance(path, str) or "\0" in path:
            raise UserError(f"{where}: expected an image, got {describe_value(path)}.")
        for folder in self.folders:
            file = (Path(folder) / path).resolve()
            if file.is_relative_to(folder) and file.is_file():
                return {"bytes": None, "path": str(file)}
        raise UserError(
            f"{where}: the image `{path[:200]}` has no bytes, and is not a file of the dataset itself. No "
            "other file is read, and no address is fetched."
        )

    def _build_objects(
        self, row: Row, where: str, image: Mapping[str, object], column: str
    ) -> dict[str, object]:
        height, width = Picture(image, where).size()
        boxes, named = _reach(row, column, where), self.objects.labels
        labels = _reach(row, named, where) if named else [""] * len(boxes)
        if len(labels) != len(boxes):
            raise UserError(f"{where}: {len(labels)} labels for {len(boxes)} boxes.")
        return {
            "width": width,
            "height": height,
            "objects": [
                build_object(
                    self._name_label(label, f"{where}: `{named}`") if named else "",
                    box,
                    (height, width),
                    where,
                    layout=self.objects.layout,
                    relative=self.objects.relative,
                )
                for label, box in zip(labels, boxes, strict=True)
            ],
        }

    def _name_label(self, label: object, where: str) -> str:
        if self.labels is not None:
            return _name_class(label, self.labels, where)
        if not is_text(label) and not is_integer(label):
            raise UserError(
                f"{where}: expected the name or number of a class, got {describe_value(label)}."
            )
        return str(label)


def _is_textual(kind: object) -> bool:
    return isinstance(kind, ClassLabel) or (isinstance(kind, Value) and kind.dtype in _TEXTS)


def _is_number(kind: object) -> bool:
    return isinstance(kind, Value) and kind.dtype.startswith(("int", "uint", "float"))


def _name_class(value: object, names: list[str], where: str) -> str:
    if not isinstance(value, int) or not 0 <= value < len(names):
        shown = describe_value(value)
        raise UserError(
            f"{where}: expected the number of a class, from 0 to {len(names) - 1}, got {shown}."
        )
    return names[value]


def _reach(row: Row, path: str, where: str) -> list[object]:
    """Return the values of `objects.bbox`; for a list of structs, the list of their fields."""
    value: object = row
    for name in path.split("."):
        structs = value if isinstance(value, list) else [value]
        fields = [struct.get(name) if isinstance(struct, Mapping) else None for struct in structs]
        value = fields if isinstance(value, list) else fields[0]
    if not isinstance(value, list):
        shown = describe_value(value)
        raise UserError(f"{where}: `{path}`: expected a list, empty where there is nothing, got {shown}.")
    return value


def _label_names(features: Features, path: str | None) -> list[str] | None:
    """Return the names of the class numbers in `objects.category`, if the features have them."""
    kind = features
    for name in path.split(".") if path else []:
        kind = kind.feature if isinstance(kind, List) else kind
        kind = kind[name]
    kind = kind.feature if isinstance(kind, List) else kind
    return list(kind.names) if isinstance(kind, ClassLabel) else None


def _texts(value: object, where: str, all_needed: bool) -> list[str]:
    """Return a list of texts.

    Args:
        value: a list of texts, also written as one text, a single text, or objects with an `answer`; None:
            an empty list.
        where: row and column, for the error message.
        all_needed: a blank text is an error; otherwise it is left out if there are others.
    """
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("["):
        value = _read_list(value)
    items = value if isinstance(value, list) else [value]
    items = [item.get("answer") if isinstance(item, dict) else item for item in items]
    texts = [str(item) if is_number(item) else item for item in items]
    wrong = [text for text in texts if not is_text(text) and (all_needed or text is None or text != "")]
    kept = [text for text in texts if is_text(text)]
    if wrong or (texts and not kept):
        raise UserError(f"{where}: expected texts, got {describe_value(wrong[0] if wrong else texts[0])}.")
    return kept


def _read_list(text: str) -> object:
    """Return a list of texts written as one text, as in the Hub's A-OKVQA; otherwise the text itself."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else text


def to_index(value: object, where: str) -> int | None:
    """Return a choice's index from 0.

    Args:
        value: a number, a number as text, or a letter; None: unknown.
        where: the row, for the error message.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return None
    text = str(value).strip().strip("()").upper()
    if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 1000:
        return int(text)
    if len(text) == 1 and "A" <= text <= "Z":
        return ord(text) - ord("A")
    shown = describe_value(value)
    raise UserError(f"{where}: expected the index of the right choice, or its letter, got {shown}.")
