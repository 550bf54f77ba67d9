"""Pascal VOC: an XML file a picture, with named boxes."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.files import find_file, find_image_dir, load_sources
from finetune.data.images import PICTURE_SUFFIXES, check_size, read_size, resolve_image
from finetune.data.objects import build_object, build_row, object_features
from finetune.data.records import iterate_lines
from finetune.data.rows import Splits
from finetune.errors import UserError

FEATURES = object_features()

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _WithoutDoctype(ET.TreeBuilder):
    """Refuses what could declare entities.

    `xml.etree` reads no external entities, but it unfolds those that a file declares itself, and nested
    ones fill the memory; they can only stand in a document type.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which annotations do not need; remove it")


def load_voc(
    train: str | None,
    validation: str | None,
    validation_fraction: float | None,
    image_dir: str | None,
    on_error: str,
    one_based: bool,
) -> Splits:
    """Read both splits, or hold out a share of `train`.

    An object that is marked `difficult` becomes a crowd (`iscrowd` 1): it is neither trained on nor
    counted as missed.

    Args:
        train: what to train on: a folder with `Annotations/` and `JPEGImages/`, a list of its pictures
            (`ROOT/ImageSets/Main/train.txt`), or a folder with XML files beside the pictures.
        validation: the same to evaluate on.
        validation_fraction: share of the pictures of `train`, where there is no such folder or list.
        image_dir: folder of the pictures; null: `JPEGImages`, or that of the XML files.
        on_error: `error` or `skip`.
        one_based: the first pixel is 1 and the last belongs to the box, as in VOC's own files; most tools
            count from 0.

    Raises:
        UserError: names the XML file and the object.
    """
    sources = [
        {
            "file": file,
            "annotations": str(_find_annotations(Path(file))),
            "image_dir": image_dir,
            "one_based": one_based,
        }
        for file in map(find_file, [train] if validation is None else [train, validation])
    ]
    second = None if validation is None else sources[1]
    return load_sources(read_voc, FEATURES, sources[0], second, validation_fraction, on_error)


def _find_annotations(file: Path) -> Path:
    """Return the folder of the XML files.

    Raises:
        UserError: there is none.
    """
    for folder in [file] if file.is_dir() else file.absolute().parents[:3]:
        if (folder / "Annotations").is_dir():
            return folder / "Annotations"
    if file.is_dir():
        return file
    raise UserError(
        f"{file}: no folder Annotations beside ImageSets. Expected ROOT/ImageSets/Main/NAME.txt."
    )


def read_voc(
    faults: Faults, file: str, annotations: str, image_dir: str | None, one_based: bool
) -> Iterator[dict[str, Any]]:
    """Yield a row for every XML file, or for those that a list names.

    Args:
        faults: what to do with a picture or an object that cannot be used.
        file: the folder, or the list.
        annotations: folder of the XML files.
        image_dir: folder of the pictures; null: `JPEGImages` beside `Annotations`, or the same.
        one_based: as in `load_voc`.

    Raises:
        UserError: names the XML file and the object.
    """
    folder = Path(annotations)
    pictures = folder.parent / "JPEGImages" if folder.name == "Annotations" else folder
    images = find_image_dir(file, image_dir or str(pictures))
    if Path(file).is_dir():
        names = sorted(path.stem for path in folder.glob("*.xml"))
        if image_dir is None:  # else the folder may hold the pictures of other splits
            _find_unannotated(faults, images, folder)
    else:
        names = [line.strip() for line in iterate_lines(file) if line.strip()]
    for name in names:
        with faults.skipping():
            yield _read_picture(faults, folder / f"{name}.xml", images, one_based)


def _find_unannotated(faults: Faults, images: Path, folder: Path) -> None:
    for path in sorted(images.iterdir()):
        with faults.skipping():
            expected = folder / f"{path.stem}.xml"
            if path.suffix.lower() in PICTURE_SUFFIXES and not expected.is_file():
                raise UserError(
                    f"{path}: no {expected}. Where nothing is on the picture, write one without <object>."
                )


def _read_picture(faults: Faults, file: Path, images: Path, one_based: bool) -> dict[str, Any]:
    root = _parse(file)
    path = resolve_image(_text(root, "filename", file), images, str(file))
    size = read_size(path, str(file))
    if root.find("size") is not None:
        height, width = (_number(root, f"size/{side}", file) for side in ("height", "width"))
        check_size((height, width), size, str(file))
    objects = []
    for number, one in enumerate(root.findall("object"), 1):
        with faults.skipping():
            objects.append(_read_object(one, size, f"{file} object {number}", one_based))
    return build_row(file.stem, path, size, objects)


def _parse(file: Path) -> ET.Element:
    if not file.is_file():
        raise UserError(f"No file {file}.")
    try:
        root: ET.Element = ET.parse(file, ET.XMLParser(target=_WithoutDoctype())).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # the last: an unknown encoding
        raise UserError(f"{file}: not an XML file of annotations: {error}.") from error
    return root


def _read_object(one: ET.Element, size: tuple[int, int], where: str, one_based: bool) -> dict[str, Any]:
    box = [_number(one, f"bndbox/{corner}", where) for corner in CORNERS]
    if one_based:
        box = [box[0] - 1, box[1] - 1, box[2], box[3]]
    difficult = one.findtext("difficult", "0").strip() == "1"
    return build_object(_text(one, "name", where), box, size, where, iscrowd=int(difficult))


def _text(element: ET.Element, path: str, where: str | Path) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise UserError(f"{where}: no <{path.replace('/', '><')}>.")
    return text


def _number(element: ET.Element, path: str, where: str | Path) -> float:
    text = _text(element, path, where)
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: <{path.replace('/', '><')}> must be a number, got {text!r}.") from error
