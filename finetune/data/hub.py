"""A data set in parquet, on the Hub or in a folder, by the names of its columns."""

import ast
from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError

from finetune.data.images import load_image
from finetune.data.objects import OBJECTS, build_object
from finetune.data.rows import Splits
from finetune.errors import UserError

LISTS = ("answers", "captions", "choices")
"""Our columns that hold a list of strings, whatever the data set has."""


def load_hub(
    path: str | None,
    name: str | None,
    revision: str | None,
    train: str | None,
    validation: str,
    columns: Mapping[str, str | None],
    data_files: Mapping[str, Any],
    objects: Mapping[str, Any],
) -> Splits:
    """Load two splits and give their columns our names.

    Args:
        path: Hub id or folder.
        name: configuration of the data set.
        revision: branch, tag or commit.
        train: split to train on, slices allowed; null: none.
        validation: split to evaluate on.
        columns: our name -> the data set's; `id`, `group` and `image` need not be there.
        data_files: split -> files that the data set's card does not list.
        objects: `boxes`, `labels`, `layout` and `relative`: where its boxes are.

    Raises:
        UserError: no such data set, split or column, or no network.
    """
    if path is None:
        raise UserError("Which data set? dataset.path=HUB_ID_OR_FOLDER is missing.")
    loaded = [
        None if split is None else _load_split(path, name, revision, split, data_files)
        for split in (train, validation)
    ]
    shaped = [None if rows is None else _shape(rows, columns, objects, path) for rows in loaded]
    assert shaped[1] is not None
    return Splits(shaped[1].select([]) if shaped[0] is None else shaped[0], shaped[1])


def _load_split(
    path: str, name: str | None, revision: str | None, split: str, files: Mapping[str, Any]
) -> Dataset:
    try:
        return load_dataset(path, name, revision=revision, split=split, data_files=dict(files) or None)
    except DatasetNotFoundError as error:
        raise UserError(f"No data set `{path}`: {error}") from error
    except ConnectionError as error:
        raise UserError(
            f"The data set `{path}` cannot be reached ({error}). Check the network, or give local files."
        ) from error
    except ValueError as error:  # an unknown split or configuration; the message lists those there are
        raise UserError(f"Data set `{path}`, split `{split}`: {error}") from error


def _shape(
    rows: Dataset, columns: Mapping[str, str | None], objects: Mapping[str, Any], path: str
) -> Dataset:
    """Rename, drop what is not named, and bring ids, groups, lists and boxes into our form."""
    wanted = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    for ours in ("image", "images"):
        if ours in rows.column_names and not {"image", "images"} & wanted.keys():
            wanted[ours] = ours
    for ours, theirs in wanted.items():
        if theirs not in rows.column_names:
            raise UserError(
                f"Data set `{path}` has no column `{theirs}` (columns.{ours}); it has: "
                f"{', '.join(rows.column_names)}."
            )
    for theirs in (objects["boxes"], objects["labels"]):
        if theirs is not None and theirs.split(".")[0] not in rows.column_names:
            raise UserError(
                f"Data set `{path}` has no column `{theirs}` (objects); it has: "
                f"{', '.join(rows.column_names)}."
            )
    if isinstance(rows.features.get(wanted.get("image", "")), Image):
        # data/images.py decodes: one rule for rotation, modes and limits, whatever the source.
        rows = rows.cast_column(wanted["image"], Image(decode=False))
    if "images" in wanted:
        rows = rows.cast_column(wanted["images"], List(Image(decode=False)))
    shaper = _Shaper(wanted, objects, rows.features)
    return rows.map(
        shaper,
        with_indices=True,
        features=shaper.features,
        remove_columns=rows.column_names,
        desc="Reading rows",
    )


class _Shaper:
    """One row of theirs to one of ours."""

    def __init__(self, columns: Mapping[str, str], objects: Mapping[str, Any], theirs: Features) -> None:
        self.columns = columns
        self.objects = objects
        self.theirs = theirs
        text, number = Value("string"), Value("int32")
        ours: dict[str, Any] = {"id": text, "group": text}
        for name, their in columns.items():
            kind = theirs[their]
            ours[name] = List(text) if name in LISTS else text if isinstance(kind, ClassLabel) else kind
        ours |= {"id": text, "group": text}
        if "answer" in columns and not isinstance(ours["answer"], List):
            ours["answer"] = number
        if objects["boxes"] is not None:
            ours |= {"width": number, "height": number, "objects": OBJECTS}
        self.features = Features(ours)

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        found: dict[str, Any] = {"id": str(index), "group": None}
        for name, their in self.columns.items():
            value = row[their]
            kind = self.theirs[their]
            if isinstance(kind, ClassLabel) and value is not None:
                value = kind.int2str(value)
            if name in LISTS:
                value = _texts(value)
            elif name == "answer":
                value = to_index(value, f"row `{found['id']}`")
            elif name in {"id", "group"} and value is not None:
                value = str(value)
            found[name] = value
        if self.objects["boxes"] is not None:
            found |= self._build_objects(row, found["id"], found["image"])
        return found

    def _build_objects(self, row: dict[str, Any], row_id: str, picture: Any) -> dict[str, Any]:
        where = f"row `{row_id}`"
        width, height = load_image(picture, where).size
        boxes = _reach(row, self.objects["boxes"]) or []
        labels = _reach(row, self.objects["labels"]) if self.objects["labels"] else [""] * len(boxes)
        names = _label_names(self.theirs, self.objects["labels"])
        return {
            "width": width,
            "height": height,
            "objects": [
                build_object(
                    names[label] if names and isinstance(label, int) else str(label),
                    box,
                    (height, width),
                    where,
                    layout=self.objects["layout"],
                    relative=self.objects["relative"],
                )
                for label, box in zip(labels, boxes, strict=True)
            ],
        }


def _reach(row: Mapping[str, Any], path: str) -> Any:
    """Return what `objects.bbox` names; a list of structs gives the list of their fields."""
    value: Any = row
    for name in path.split("."):
        value = [one[name] for one in value] if isinstance(value, list) else value[name]
    return value


def _label_names(features: Features, path: str | None) -> list[str] | None:
    """Return the names of the class numbers at `objects.category`, where the features have them."""
    kind: Any = features
    for name in path.split(".") if path else []:
        kind = (kind.feature if isinstance(kind, List) else kind)[name]
    kind = kind.feature if isinstance(kind, List) else kind
    return list(kind.names) if isinstance(kind, ClassLabel) else None


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("["):
        try:  # a list written as a string, as A-OKVQA's copy has it
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            return [value]
    if isinstance(value, list):
        return [item["answer"] if isinstance(item, dict) else str(item) for item in value]
    return [str(value)]


def to_index(value: Any, where: str) -> int | None:
    """Return a choice's index from 0.

    Args:
        value: a number, a number as text, or a letter; null: unknown.
        where: the row, for the error message.

    Raises:
        UserError: it is none of these.
    """
    if value is None:
        return None
    text = str(value).strip().strip("()").upper()
    if text.lstrip("-").isdigit():
        return int(text)
    if len(text) == 1 and text.isalpha():
        return ord(text) - ord("A")
    raise UserError(f"{where}: expected the index of the right choice, or its letter, got {value!r}.")
