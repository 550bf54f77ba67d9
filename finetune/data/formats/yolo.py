"""YOLO: a `data.yaml`, and one text file per image with class numbers and relative boxes or polygons."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import yaml

from finetune.data.annotations import Yolo
from finetune.data.formats.splits import describe_folder, find_file, find_image_dir, load_sources
from finetune.data.images import IMAGE_SUFFIXES, measure_image
from finetune.data.layouts.splits import choose_split
from finetune.data.layouts.yolo import find_classes, find_splits
from finetune.data.objects import Note, build_object, build_row, check_label, name_class, object_features
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.tables import iterate_lines
from finetune.data.rows import Row, Splits
from finetune.errors import UserError
from finetune.example import SceneObject

log = logging.getLogger(__name__)

FEATURES = object_features()


def load_yolo(options: Yolo) -> Splits:
    """Read the splits `train` and `val` of a data.yaml, or hold out a share of `train`.

    A split may also be a folder or a list of images, whose classes are in a data.yaml, `classes.txt` or
    `obj.names` there or above, as Label Studio and CVAT (YOLO 1.1) export.
    """
    train, validation, folder = options.train, options.validation, options.image_dir
    if options.is_test:
        place = _find_place(options.test, "test")
        with reading(place):
            tests = [{**_find_split(place, "test", folder), "clip": options.clip}]
        return load_sources(read_yolo, FEATURES, options, tests, paths=("labels",))
    held_out = validation is None and options.validation_fraction is not None
    places = [_find_place(train or validation, "train"), _find_place(validation or train, "validation")]
    if not held_out and validation is None and places[0] == places[1] and not _is_yaml(places[0]):
        raise UserError(
            f"{train} (dataset.train) does not name images to evaluate on: dataset.validation=FOLDER, or "
            "dataset.validation_fraction=0.1."
        )
    with reading(places[1]):
        second = None if held_out else _find_split(places[1], "val", folder)
    with reading(places[0]):
        # Without `train`, both splits are the validation split.
        first = second if train is None and second else _find_split(places[0], "train", folder)
    if first["keypoints"]:
        log.warning("warning: %s has keypoints (kpt_shape): they are left out, boxes are kept.", places[0])
    sources = [None if each is None else [{**each, "clip": options.clip}] for each in (first, second)]
    return load_sources(read_yolo, FEATURES, options, sources[0] or [], sources[1], paths=("labels",))


def _find_place(file: str | None, option: str) -> str:
    """Return the data.yaml, or the list or folder of images, of a split."""
    path = Path(find_file(file, option, folder=True))
    if path.name == "obj.data":
        path = path.parent
    if not path.is_dir():
        return str(path)
    if (path / "data.yaml").is_file():
        return str(path / "data.yaml")
    splits = find_splits(path)
    chosen = choose_split(splits, option) or splits.get("train")
    if chosen is None and find_classes(path) is None:
        raise UserError(
            f"{path} (dataset.{option}) has no data.yaml. {describe_folder(path)} Name the YAML file "
            "with `train`, `val` and `names`, or write it; docs/data.md shows one."
        )
    return chosen or str(path)


def _is_yaml(file: str) -> bool:
    return Path(file).suffix.lower() in {".yaml", ".yml"}


def _find_split(file: str, key: str, image_dir: str | None) -> dict[str, object]:
    """Return the reader's arguments for one split: of a data.yaml, or a folder or list of images."""
    path = Path(file)
    classes = path if _is_yaml(file) else find_classes(path)
    if classes is None:
        raise UserError(
            f"{path}: no classes: expected a data.yaml, classes.txt or obj.names next to it. Write one."
        )
    content: Mapping[str, object] = _read_yaml(classes) if _is_yaml(str(classes)) else {}
    names = _read_names(content, classes) if content else _read_class_list(classes)
    given = [find_image_dir(file, image_dir)] if image_dir else []
    parent = classes.absolute().parent
    named = [parent / str(content["path"])] if content.get("path") else []
    roots = given or [root for root in (*named, parent) if root.is_dir()]
    if path == classes:
        places, where = _find_entries(content, key, roots, path), f"{path}: `{key}`"
    else:
        inner = path / "images"
        places, where = [inner if inner.is_dir() else path], str(path)
    return {
        "file": str(classes),
        **_find_images(places, roots, where),
        "names": names,
        "keypoints": _count_keypoints(content, classes),
        "rotated": content.get("task") == "obb",
    }


def _find_entries(content: Mapping[str, object], key: str, roots: list[Path], file: Path) -> list[Path]:
    """Return the folders and lists of images that a data.yaml names for a split."""
    if not content.get(key):
        raise UserError(
            f"{file}: no `{key}`; the keys are: {', '.join(content)}. Name the images there"
            + (", or pass dataset.validation_fraction=0.1." if key == "val" else ".")
        )
    entry = content[key]
    entries = entry if isinstance(entry, list) else [entry]
    return [_find_entry(str(entry), roots, f"{file}: `{key}`") for entry in entries]


def _find_images(places: list[Path], roots: list[Path], where: str) -> dict[str, object]:
    """Return the images of a split, their text files, and text files without an image."""
    images = [image for place in places for image in _list_images(place, roots, where)]
    if not images:
        raise UserError(f"{where}: no images in {', '.join(map(str, places))}. Put them there.")
    labels = [_find_label(Path(folder) / name) for _, folder, name in images]
    label_dirs = {place: _find_label(place / "any").parent for place in places if place.is_dir()}
    texts = {
        text for place, folder in label_dirs.items() if folder != place for text in folder.rglob("*.txt")
    }
    orphans = sorted(str(text) for text in texts - {*labels} if text.name != "classes.txt")
    return {"images": tuple(images), "labels": tuple(map(str, labels)), "orphans": tuple(orphans)}


def _read_class_list(file: Path) -> dict[int, str]:
    """Return the classes of a text with one in each line."""
    lines = [line.strip() for line in iterate_lines(str(file))]
    while lines and not lines[-1]:
        lines.pop()
    return {number: check_label(name, f"{file} line {number + 1}") for number, name in enumerate(lines)}


def _read_yaml(file: Path) -> dict[str, object]:
    try:
        # Everything stays a text: YAML would read the names `no` and `1` as something else.
        content = yaml.load("".join(iterate_lines(str(file))), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a data.yaml with `train`, `val` and `names`.")
    return content


def _read_names(content: Mapping[str, object], file: Path) -> dict[int, str]:
    names = content.get("names")
    if not names:
        raise UserError(f"{file}: no `names`; the keys are: {', '.join(content)}.")
    if not isinstance(names, list | dict):
        raise UserError(
            f"{file}: `names` must be a list such as [cat, dog], or `number: name`, got {names!r}."
        )
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        classes = {int(number): check_label(name, f"{file}: class {number}") for number, name in pairs}
    except ValueError as error:
        raise UserError(f"{file}: `names` must be a list, or `number: name`; {error}.") from error
    if str(content.get("nc", len(classes))) != str(len(classes)):
        raise UserError(
            f"{file}: `nc` is {content['nc']}, but `names` has {len(classes)} classes. Mend one."
        )
    return classes


def _count_keypoints(content: Mapping[str, object], file: Path) -> int:
    """Return how many numbers follow each box in the text files of a pose dataset.

    Raises:
        UserError: `kpt_shape` is not two numbers.
    """
    shape = content.get("kpt_shape")
    if shape is None and content.get("task") != "pose":
        return 0
    try:
        points, numbers = map(int, shape if isinstance(shape, list) else ())
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{file}: `kpt_shape` of a pose dataset must be [points, 2 or 3], got {shape!r}."
        ) from error
    return points * numbers


def _find_entry(entry: str, roots: list[Path], where: str) -> Path:
    """Return a folder of images, or a list of them."""
    root, name = _locate(entry, roots)
    if not (root / name).exists():
        raise UserError(
            f"{where}: no folder or list `{entry}`; sought below {', '.join(map(str, roots))}. If the "
            "paths are those of another machine: pass dataset.image_dir=FOLDER, which replaces its "
            "`path`, or write paths relative to this file."
        )
    return root / name


def _list_images(place: Path, roots: list[Path], where: str) -> Iterator[tuple[str, str, str]]:
    """Yield, for each image, the place that names it, a folder and its name in the folder."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                yield where, str(place), str(path.relative_to(place))
        return
    for number, line in enumerate(iterate_lines(str(place)), 1):
        if line.strip():
            folder, name = _locate(line.strip(), [*roots, place.parent])
            yield f"{place} line {number}", str(folder), name


def _locate(name: str, roots: list[Path]) -> tuple[Path, str]:
    """Return the root that has such a file or folder, and its path relative to the root."""
    tries = [(root, spelled) for spelled in _spellings(name) for root in roots]
    present = [(root, path) for root, path in tries if (root / path).exists()]
    inside = (
        (root, path) for root, path in present if (root / path).resolve().is_relative_to(root.resolve())
    )
    return next(inside, next(iter(present), tries[0]))


def _spellings(name: str) -> Iterator[str]:
    """Yield the path, and the paths that it may mean instead.

    Roboflow writes `../train/images` for `train/images`, and CVAT `data/images/a.jpg` for a file outside
    `data`. The end of an absolute path of another machine may
    exist here; its last name alone is not tried, because two splits may share it.
    """
    plain = name.replace("\\", "/")
    yield plain
    absolute = plain.startswith("/") or re.match(r"[A-Za-z]:/", plain)
    parts = [part for part in re.sub(r"^[A-Za-z]:/", "", plain).split("/") if part not in {"", "."}]
    if absolute:
        yield from ("/".join(parts[start:]) for start in range(len(parts) - 1))
    elif parts[:1] == [".."]:
        yield "/".join(part for part in parts if part != "..")
    elif parts[:1] == ["data"]:
        yield "/".join(parts[1:])


def _find_label(image: Path) -> Path:
    """Return `labels/x.txt` for `images/x.jpg`; without a folder `images`, `x.txt` next to it."""
    head, images, tail = str(image).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}" if images else tail).with_suffix(".txt")


def read_yolo(
    faults: Faults,
    file: str,
    names: Mapping[int, str],
    images: tuple[tuple[str, str, str], ...],
    labels: tuple[str, ...],
    orphans: tuple[str, ...],
    keypoints: int,
    rotated: bool,
    clip: bool,
) -> Iterator[Row]:
    """Yield a row for every image; without a text file, or with an empty one, it has no objects.

    A line is a class number and `cx cy w h`, or x and y of three or more points, whose mask is kept with
    the box around it; all are shares of width and height.

    Args:
        faults: what to do with an image or a line that cannot be used.
        file: the data.yaml, or the list of classes.
        names: the classes.
        images: the place that names each, its folder, and its name in the folder; ids are paths
            relative to the data.yaml.
        labels: the text file of each image, which may be missing.
        orphans: text files without an image.
        keypoints: how many numbers of keypoints follow each box.
        rotated: the points are corners of rotated boxes, not an outline: objects have no mask.
        clip: clip boxes that are partly outside their images.
    """
    note = faults.note if clip else None
    if images and not any(Path(label).is_file() for label in labels):
        raise UserError(
            f"{file}: none of {len(images)} images has a text file with its objects; expected "
            f"{labels[0]} and so on."
        )
    for (where, folder, name), label in zip(images, labels, strict=True):
        with faults.skipping():
            path, size = measure_image(name, Path(folder), where)
            row_id = os.path.relpath(Path(folder) / name, Path(file).parent)
            objects = []
            for number, line in enumerate(iterate_lines(label) if Path(label).is_file() else (), 1):
                with faults.skipping():
                    if line.strip():
                        line_place = f"{label} line {number}"
                        obj = _read_object(line.split(), names, size, line_place, keypoints, note)
                        if rotated:
                            obj["mask_rle"] = None
                        objects.append(obj)
            place = label if Path(label).is_file() else where
            yield build_row(row_id, path, size, objects, place)
    for orphan in orphans:
        with faults.skipping():
            raise UserError(f"{orphan}: no image belongs to this text file.")


def _read_object(
    values: list[str],
    names: Mapping[int, str],
    size: tuple[int, int],
    where: str,
    keypoints: int,
    clip: Note | None,
) -> SceneObject:
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
        return build_object(label, numbers, size, where, layout="cxcywh", relative=True, clip=clip)
    if len(numbers) < 6 or len(numbers) % 2:
        raise UserError(
            f"{where}: expected four numbers (cx cy w h), or x and y of three or more points, got "
            f"{len(numbers)} numbers."
        )
    height, width = size
    xs = [x * width for x in numbers[::2]]
    ys = [y * height for y in numbers[1::2]]
    polygon = list(chain(*zip(xs, ys, strict=True)))
    box = (min(xs), min(ys), max(xs), max(ys))
    return build_object(label, box, size, where, segmentation=[polygon], clip=clip)
