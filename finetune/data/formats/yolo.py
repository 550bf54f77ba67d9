"""YOLO: a `data.yaml`, and a text file a picture with class numbers and relative boxes or polygons."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from finetune.data.formats.splits import describe_folder, find_file, find_image_dir, load_sources
from finetune.data.images import PICTURE_SUFFIXES, read_size, resolve_image
from finetune.data.objects import build_object, build_row, check_label, name_class, object_features
from finetune.data.options import Yolo
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.tables import iterate_lines
from finetune.data.rows import Splits
from finetune.errors import UserError

log = logging.getLogger(__name__)

FEATURES = object_features()


def load_yolo(options: Yolo) -> Splits:
    """Read the splits `train` and `val` of a data.yaml, or hold out a share of `train`.

    Raises:
        UserError: names the file and the line.
    """
    train, validation, folder = options.train, options.validation, options.image_dir
    held_out = validation is None and options.validation_fraction is not None
    files = [_find_yaml(train or validation, "train"), _find_yaml(validation or train, "validation")]
    with reading(files[1]):
        second = None if held_out else _find_split(files[1], "val", folder)
    with reading(files[0]):
        # Without `train` nothing is trained on: both splits are the second.
        first = second if train is None and second else _find_split(files[0], "train", folder)
    if first["keypoints"]:
        log.warning("warning: %s has keypoints (kpt_shape): they are left out, boxes are kept.", files[0])
    return load_sources(read_yolo, FEATURES, options, first, second, paths=("labels",))


def _find_yaml(file: str | None, option: str) -> str:
    """Return the data.yaml, or the one in a folder.

    Raises:
        UserError: there is none.
    """
    found = Path(find_file(file, option, folder=True))
    if not found.is_dir():
        return str(found)
    if not (found / "data.yaml").is_file():
        raise UserError(
            f"{found} (dataset.{option}) has no data.yaml. {describe_folder(found)} Name the YAML file "
            "with `train`, `val` and `names`, or write it; docs/data.md shows one."
        )
    return str(found / "data.yaml")


def _find_split(file: str, key: str, image_dir: str | None) -> dict[str, Any]:
    """Return the reader's arguments for one split.

    Raises:
        UserError: the data.yaml lacks something, or names what is not there.
    """
    found = Path(file)
    content = _read_yaml(found)
    own = found.absolute().parent
    named = [own / str(content["path"])] if content.get("path") else []
    given = [find_image_dir(file, image_dir)] if image_dir else []
    roots = given or [root for root in (*named, own) if root.is_dir()]
    if not content.get(key):
        raise UserError(
            f"{found}: no `{key}`; the keys are: {', '.join(content)}. Name the pictures there"
            + (", or pass dataset.validation_fraction=0.1." if key == "val" else ".")
        )
    entries = content[key] if isinstance(content[key], list) else [content[key]]
    places = [_find_place(str(entry), roots, f"{found}: `{key}`") for entry in entries]
    pictures = [one for place in places for one in _list_pictures(place, roots, f"{found}: `{key}`")]
    labels = [_find_label(Path(folder) / name) for _, folder, name in pictures]
    beside = {place: _find_label(place / "any").parent for place in places if place.is_dir()}
    texts = {text for place, folder in beside.items() if folder != place for text in folder.rglob("*.txt")}
    return {
        "file": str(found),
        "names": _read_names(content, found),
        "pictures": tuple(pictures),
        "labels": tuple(map(str, labels)),
        "orphans": tuple(sorted(str(text) for text in texts - {*labels} if text.name != "classes.txt")),
        "keypoints": _count_keypoints(content, found),
        "rotated": content.get("task") == "obb",
    }


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        # All text: YAML would read the names `no` and `1` as something else.
        content = yaml.load("".join(iterate_lines(str(file))), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a data.yaml with `train`, `val` and `names`.")
    return content


def _read_names(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    names = content.get("names")
    if not names:
        raise UserError(f"{file}: no `names`; the keys are: {', '.join(content)}.")
    if not isinstance(names, list | dict):
        raise UserError(
            f"{file}: `names` must be a list such as [cat, dog], or `number: name`, got {names!r}."
        )
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        found = {int(number): check_label(name, f"{file}: class {number}") for number, name in pairs}
    except ValueError as error:
        raise UserError(f"{file}: `names` must be a list, or `number: name`; {error}.") from error
    if str(content.get("nc", len(found))) != str(len(found)):
        raise UserError(f"{file}: `nc` is {content['nc']}, but `names` has {len(found)} classes. Mend one.")
    return found


def _count_keypoints(content: Mapping[str, Any], file: Path) -> int:
    """Return how many numbers follow each box in the text files of a pose dataset.

    Raises:
        UserError: `kpt_shape` is not two numbers.
    """
    shape = content.get("kpt_shape")
    if shape is None and content.get("task") != "pose":
        return 0
    try:
        points, numbers = map(int, shape or ())
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{file}: `kpt_shape` of a pose dataset must be [points, 2 or 3], got {shape!r}."
        ) from error
    return points * numbers


def _find_place(entry: str, roots: list[Path], where: str) -> Path:
    """Return a folder of pictures, or a list of them."""
    root, name = _locate(entry, roots)
    if not (root / name).exists():
        raise UserError(
            f"{where}: no folder or list `{entry}`; sought below {', '.join(map(str, roots))}. If the "
            "paths are those of another machine: pass dataset.image_dir=FOLDER, which stands for its "
            "`path`, or write paths relative to this file."
        )
    return root / name


def _list_pictures(place: Path, roots: list[Path], where: str) -> Iterator[tuple[str, str, str]]:
    """Yield, for each picture, where it is named, a folder and its name inside."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                yield where, str(place), str(path.relative_to(place))
        return
    for number, line in enumerate(iterate_lines(str(place)), 1):
        if line.strip():
            folder, name = _locate(line.strip(), [*roots, place.parent])
            yield f"{place} line {number}", str(folder), name


def _locate(name: str, roots: list[Path]) -> tuple[Path, str]:
    """Return the root below which there is such a file or folder, and its name from there."""
    tries = [(root, spelled) for spelled in _spellings(name) for root in roots]
    there = [(root, spelled) for root, spelled in tries if (root / spelled).exists()]
    inside = ((root, one) for root, one in there if (root / one).resolve().is_relative_to(root.resolve()))
    return next(inside, next(iter(there), tries[0]))


def _spellings(name: str) -> Iterator[str]:
    """Yield the path, and what it may mean instead.

    Roboflow writes `../train/images` for `train/images`; of an absolute path of another machine the end
    may be found here, but not by its last name alone, which two splits may share.
    """
    plain = name.replace("\\", "/")
    yield plain
    absolute = plain.startswith("/") or re.match(r"[A-Za-z]:/", plain)
    parts = [part for part in re.sub(r"^[A-Za-z]:/", "", plain).split("/") if part not in {"", "."}]
    if absolute:
        yield from ("/".join(parts[start:]) for start in range(len(parts) - 1))
    elif parts[:1] == [".."]:
        yield "/".join(part for part in parts if part != "..")


def _find_label(picture: Path) -> Path:
    """Return `labels/x.txt` of `images/x.jpg`; without a folder `images`, `x.txt` beside it."""
    head, images, tail = str(picture).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}" if images else tail).with_suffix(".txt")


def read_yolo(
    faults: Faults,
    file: str,
    names: Mapping[int, str],
    pictures: tuple[tuple[str, str, str], ...],
    labels: tuple[str, ...],
    orphans: tuple[str, ...],
    keypoints: int,
    rotated: bool,
) -> Iterator[dict[str, Any]]:
    """Yield a row for every picture; without a text file, or with an empty one, it has no objects.

    A line is a class number and `cx cy w h`, or x and y of three or more points, whose mask is kept with
    the box around it; all are shares of width and height.

    Args:
        faults: what to do with a picture or a line that cannot be used.
        file: the data.yaml.
        names: the classes.
        pictures: where each is named, its folder, and its name in there; ids are paths from the
            data.yaml.
        labels: the text file of each picture, which need not be there.
        orphans: text files to which no picture belongs.
        keypoints: numbers behind each box that are no part of it.
        rotated: the points are corners of rotated boxes, no outline: without a mask.

    Raises:
        UserError: names the file and the line.
    """
    if pictures and not any(Path(label).is_file() for label in labels):
        raise UserError(
            f"{file}: none of {len(pictures)} pictures has a text file with its objects; expected "
            f"{labels[0]} and so on."
        )
    for (where, folder, name), label in zip(pictures, labels, strict=True):
        with faults.skipping():
            path = resolve_image(name, Path(folder), where)
            size = read_size(path, where)
            row_id = os.path.relpath(Path(folder) / name, Path(file).parent)
            objects = []
            for number, line in enumerate(iterate_lines(label) if Path(label).is_file() else (), 1):
                with faults.skipping():
                    if line.strip():
                        place = f"{label} line {number}"
                        one = _read_object(line.split(), names, size, place, keypoints)
                        objects.append({**one, "mask_rle": None} if rotated else one)
            yield build_row(row_id, path, size, objects)
    for orphan in orphans:
        with faults.skipping():
            raise UserError(f"{orphan}: no picture belongs to this text file.")


def _read_object(
    values: list[str], names: Mapping[int, str], size: tuple[int, int], where: str, keypoints: int
) -> dict[str, Any]:
    try:
        key, numbers = int(values[0]), [float(value) for value in values[1:]]
    except ValueError as error:
        raise UserError(f"{where}: expected a class number and its coordinates; {error}.") from error
    label = name_class(key, names, where)
    if keypoints:
        if len(numbers) != 4 + keypoints:
            raise UserError(
                f"{where}: expected four numbers (cx cy w h) and the {keypoints} of `kpt_shape`, got "
                f"{len(numbers)} numbers."
            )
        numbers = numbers[:4]
    if len(numbers) == 4:
        return build_object(label, numbers, size, where, layout="cxcywh", relative=True)
    if len(numbers) < 6 or len(numbers) % 2:
        raise UserError(
            f"{where}: expected four numbers (cx cy w h), or x and y of three or more points, got "
            f"{len(numbers)} numbers."
        )
    height, width = size
    xs = [x * width for x in numbers[::2]]
    ys = [y * height for y in numbers[1::2]]
    polygon = list(chain(*zip(xs, ys, strict=True)))
    return build_object(label, (min(xs), min(ys), max(xs), max(ys)), size, where, segmentation=[polygon])
