"""Label Studio's JSON and JSON-MIN: boxes and masks, or choices and texts about an image."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from datasets import Features

from finetune.data.annotations import LabelStudio
from finetune.data.cache import PLACE
from finetune.data.formats.label_studio_tasks import Annotation, read_annotation
from finetune.data.formats.regions import read_regions
from finetune.data.formats.splits import find_image_dirs, find_split_files, list_files, load_files
from finetune.data.formats.table import LISTS
from finetune.data.images import ImageError, Picture, resolve_image
from finetune.data.layouts.label_studio import find_image_folders, find_splits
from finetune.data.objects import build_row, object_features
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.tables import read_json_rows
from finetune.data.rows import Row, Splits, text_features
from finetune.errors import UserError

FEATURES = object_features()


def load_label_studio(options: LabelStudio) -> Splits:
    """Read the files of both splits, or hold out a share of `train`.

    Where annotations have boxes, polygons or brushes, rows have objects; choices and texts are ignored.
    Otherwise they have a column for each tag of the project, such as `caption`, and for the task's data.
    """
    files = find_split_files(options, find_splits, "Label Studio's JSON")
    columns = {ours: theirs for ours, theirs in options.columns.items() if theirs is not None}
    image = columns.pop("image", None)
    tags, has_objects = _survey(list_files(files), image)
    if has_objects:
        features = FEATURES
    else:
        names = {name: name for name in tags if name not in columns.values()} | columns
        missing = [f"{ours}: {theirs}" for ours, theirs in columns.items() if theirs not in tags]
        if missing:
            raise UserError(
                f"{files.train[0]}: no tag or data for dataset.columns {', '.join(missing)}; it has: "
                f"{', '.join(tags) or 'none'}."
            )
        columns = {"suffixes" if ours == "suffix" else ours: theirs for ours, theirs in names.items()}
        features = _build_features(columns)
    return load_files(
        read_label_studio,
        features,
        options,
        files,
        columns=columns,
        image=image,
        has_objects=has_objects,
        clip=options.clip,
    )


def _survey(files: Sequence[str], image: str | None) -> tuple[list[str], bool]:
    """Return the names of all tags and data, and whether there are boxes or masks."""
    tags: dict[str, None] = {}
    has_objects = False
    for file in files:
        with reading(file):
            faults = Faults(skip=True)
            for _, task in read_json_rows(faults, file):
                with faults.skipping():
                    annotation = read_annotation(task, image)
                    if annotation is not None:
                        has_objects = has_objects or bool(annotation.regions)
                        tags |= dict.fromkeys(annotation.texts)
    return list(tags), has_objects


def _build_features(columns: Mapping[str, str]) -> Features:
    lists = tuple(name for name in columns if name in LISTS)
    return text_features(*columns, lists=lists, numbers=("width", "height"))


def read_label_studio(
    faults: Faults,
    file: str,
    image_dir: str | None,
    columns: Mapping[str, str],
    image: str | None,
    has_objects: bool,
    clip: bool,
) -> Iterator[Row]:
    """Yield a row for every annotated task.

    Args:
        faults: what to do with a task or a result that cannot be used.
        file: JSON or JSON-MIN.
        image_dir: folder of the images; None: next to the file, or in `images` there.
        columns: our name -> tag or data of the project, of tasks without boxes and masks.
        image: key of the image in the data of the tasks; None: the first that names one.
        has_objects: rows have objects.
        clip: clip boxes that are partly outside their images.
    """
    folders = find_image_dirs(file, image_dir, find_image_folders)
    for number, task in read_json_rows(faults, file):
        with faults.skipping():
            annotation = read_annotation(task, image)
            if annotation is None:
                faults.leave_out(f"{task.where}: the task has no annotation.")
                continue
            if annotation.others:
                faults.note("tasks have several annotations, of which the first was read", task.where)
            path = find_image(annotation.image, folders, task.where)
            size = Picture(path, task.where).size()
            row_id = str(task.get("id") or number)
            if has_objects:
                objects = list(
                    read_regions(faults, annotation.regions, size, faults.note if clip else None)
                )
                yield build_row(row_id, path, size, objects, task.where)
            else:
                head = {"image": path, **_name_sides(size), PLACE: task.where}
                yield {**_read_columns(annotation, columns, row_id), **head}


def _name_sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _read_columns(annotation: Annotation, columns: Mapping[str, str], row_id: str) -> Row:
    row: dict[str, object] = {"id": row_id, "group": None}
    for ours, theirs in columns.items():
        texts = annotation.texts.get(theirs, [])
        row[ours] = texts if ours in LISTS else ", ".join(texts) or None
    return row


def find_image(name: object, folders: Sequence[Path], where: str) -> str:
    """Return the image of a task, which Label Studio names by its own address.

    `/data/upload/3/1a2b3c4d-cup.jpg` is an uploaded `cup.jpg`, `/data/local-files/?d=shelf/cup.jpg` a file
    below a folder of the server, and others are addresses. Their last names are sought; nothing is fetched.

    Raises:
        UserError: there is no such file.
    """
    text = str(name)
    local = re.search(r"[?&]d=([^&]+)", text)
    remote = re.match(r"\w+://[^/]*(/[^?#]*)", text)
    plain = unquote(f"/{local[1]}" if local else remote[1] if remote else text)
    spelled = dict.fromkeys((plain, re.sub(r"(^|/)[0-9a-f]{8}-([^/]+)$", r"\1\2", plain)))
    for each in spelled:
        try:
            return resolve_image(each, folders, where)
        except ImageError:
            continue
    listed = ", ".join(map(str, folders))
    raise ImageError(
        f"{where}: no image `{plain.rpartition('/')[2]}` (`{text[:200]}`) under {listed}; download the "
        "images, and pass dataset.image_dir=FOLDER."
    )
