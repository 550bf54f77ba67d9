"""Finds the format of a folder or file of data, its splits, and the kind of task that it is for."""

import re
from collections.abc import Mapping
from pathlib import Path

from finetune.data.formats.label_studio_tasks import read_annotation
from finetune.data.layouts.finders import FINDERS
from finetune.data.layouts.image_folder import find_metadata
from finetune.data.layouts.label_studio import is_minimal
from finetune.data.layouts.splits import find_files, list_folder
from finetune.data.layouts.texts import TABLES, find_tables
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.tables import list_columns, read_json_rows
from finetune.data.recognition import objects
from finetune.data.recognition.columns import recognize_columns
from finetune.data.recognition.hub import recognize_folder, recognize_hub
from finetune.data.recognition.kinds import Kind, Purpose, Recognition
from finetune.data.recognition.texts import recognize_conversations, recognize_pairs, sample
from finetune.errors import UserError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LISTED = 8
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def recognize(
    place: str, dataset: str | None = None, given: Mapping[str, str] | None = None
) -> Recognition:
    """Return what lies in a folder or file.

    Args:
        place: a folder, a file, a pattern of files, or a dataset's id on the Hub.
        dataset: the format, where it is known; None: any.
        given: our column -> the data's, where they are known.

    Raises:
        UserError: there is nothing, no format fits, or several do; or the columns do not say what is asked.
    """
    given = given or {}
    path = Path(place)
    with reading(place):
        files = [] if path.exists() else _match(path)
        if not files and not path.exists():
            # A Hub id looks like a path of two names; below a folder that there is, it is a path.
            if _HUB_ID.fullmatch(place) and not path.parent.is_dir():
                return recognize_hub(place, given)
            raise UserError(
                f"No file or folder {place} (data=). Paths are relative to the current folder, "
                f"{Path.cwd()}."
            )
        file = files[0] if files else path
        name, splits = _find_format(file, dataset, given.get("image"))
        if name == "hub":
            return recognize_folder(path, splits, given)
        first = splits.get("train") or next(iter(splits.values()))
        purpose = _recognize_purpose(name, first, given)
        return Recognition(name, {"train": place} if files else splits, purpose)


def _match(path: Path) -> list[Path]:
    """Return the files that match a pattern; none if it is not one."""
    if not any(mark in str(path) for mark in "*?["):
        return []
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _find_format(path: Path, dataset: str | None, image: str | None) -> tuple[str, dict[str, str]]:
    """Return the only format of a folder or file, and its splits; `image` is a table's column of images."""
    found: dict[str, dict[str, str]] = {}
    problems: list[UserError] = []
    if dataset is not None and dataset not in FINDERS:
        raise UserError(
            f"data= finds the files of these formats: {', '.join(FINDERS)}; not of dataset={dataset}."
        )
    for name, find in FINDERS.items():
        if dataset in {None, name}:
            try:
                if splits := find_tables(path, image) if name == "table" else find(path):
                    found[name] = splits
            except UserError as error:
                problems.append(error)
    tables = found.get("table", {})
    if tables and "hub" in found and all(table.endswith(".parquet") for table in tables.values()):
        del found["table"]  # a folder of parquet files as `datasets` writes it
    if len(found) == 1 and not problems:
        return next(iter(found.items()))
    if problems:
        others = f" Or name the format next to data=: dataset={next(iter(found))}." if found else ""
        raise UserError(f"{problems[0]}{others}")
    if len(found) > 1:
        listed = "; ".join(
            f"dataset={name}: {next(iter(splits.values()))}" for name, splits in found.items()
        )
        raise UserError(
            f"{path} has data in {len(found)} formats ({listed}). Name one of them next to data=, such as "
            f"dataset={next(iter(found))}, or give its file alone."
        )
    raise UserError(_explain_nothing(path, list(FINDERS)))


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in TABLES


def _explain_nothing(path: Path, known: list[str]) -> str:
    if path.suffix.lower() in _ARCHIVES:
        return f"{path} (data=) is an archive. Unpack it, and give the folder: data={path.with_suffix('')}."
    for file in [path] if path.is_file() else find_files(path, *TABLES):
        if _is_table(file):
            return _explain_table(file)
    if path.is_file():
        return (
            f"{path} (data=) is not a file of a known format: {', '.join(known)}. docs/data.md shows what "
            "each looks like."
        )
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    if not names:
        return f"The folder {path} (data=) is empty."
    more = ", ..." if len(names) > _LISTED else ""
    below = next((folder for folder in list_folder(path) if folder.is_dir() and _has_format(folder)), None)
    hint = (
        f"Did you mean data={below}?" if below is not None else "docs/data.md shows what each looks like."
    )
    return (
        f"{path} (data=) has no data of a known format: {', '.join(known)}. It holds: "
        f"{', '.join(names[:_LISTED])}{more}. {hint}"
    )


def _explain_table(file: Path) -> str:
    """Return why a table is not one of images."""
    try:
        columns = list_columns(str(file))
    except UserError as error:
        return str(error)
    if is_minimal(dict.fromkeys(columns)):
        return f"{file} is Label Studio's CSV, which is not read. Export the project as JSON or JSON-MIN."
    return (
        f"{file} (data=) has no column of images that is named so; its columns are: "
        f"{', '.join(columns) or 'none'}. Name it: dataset.columns.image=NAME (and dataset.columns.question"
        "=NAME, dataset.columns.answers=NAME where they have other names, too)."
    )


def _has_format(folder: Path) -> bool:
    try:
        return any(find(folder) for find in FINDERS.values())
    except UserError:
        return True


def _recognize_purpose(name: str, place: str, given: Mapping[str, str]) -> Purpose:
    if name in _OBJECTS:
        return Purpose(_OBJECTS[name](place))
    if name == "voc":
        return Purpose(Kind.detection)
    if name == "conversations":
        return recognize_conversations(place)
    if name == "jsonl":
        keys = given.get("prefix", "prefix"), given.get("suffix", "suffix")
        return recognize_pairs(sample(place), *keys)
    if name == "label_studio":
        return _recognize_label_studio(place, given)
    if name == "image_folder":
        return _recognize_image_folder(place)
    return recognize_columns(list_columns(place), sample(place), place, given)


_OBJECTS = {
    "coco": objects.recognize_coco,
    "cvat": objects.recognize_cvat,
    "labelme": objects.recognize_labelme,
    "yolo": objects.recognize_yolo,
}


def _recognize_label_studio(file: str, given: Mapping[str, str]) -> Purpose:
    shapes: list[bool] = []
    rows: list[dict[str, object]] = []
    faults = Faults(skip=True)
    for _, task in read_json_rows(faults, file):
        with faults.skipping():
            annotation = read_annotation(task)
            if annotation is not None:
                shapes += [not {"x", "width"} <= region.keys() for region in annotation.regions]
                rows.append({"image": annotation.image, **annotation.texts})
    if shapes:
        return Purpose(objects.kind_of_shapes(shapes))
    names = dict.fromkeys(name for row in rows for name in row)
    return recognize_columns(list(names), rows, file, given, "image")


def _recognize_image_folder(place: str) -> Purpose:
    if not Path(place).is_file() and not find_metadata(Path(place)):
        return Purpose(Kind.classes)
    file = place if Path(place).is_file() else str(Path(place) / find_metadata(Path(place))[0])
    columns = list_columns(file)
    if {"prefix", "suffix"} <= set(columns):
        return recognize_pairs(sample(file))
    if "objects" in columns:
        return Purpose(Kind.detection)
    if "text" in columns:
        return Purpose(Kind.caption)
    raise UserError(
        f"{file}: expected `file_name` with `prefix` and `suffix`, `objects`, or `text`; its columns are: "
        f"{', '.join(columns) or 'none'}. Other columns are read with dataset=table "
        f"dataset.train={file} dataset.columns.image=file_name."
    )
