"""Pascal VOC: one XML file per image, with named boxes."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from finetune.data.formats.splits import describe_folder, find_file, find_image_dir, load_sources
from finetune.data.images import IMAGE_SUFFIXES, check_size, measure_image
from finetune.data.objects import build_object, build_row, object_features
from finetune.data.options import Voc
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.tables import iterate_lines
from finetune.data.rows import Row, Splits
from finetune.errors import UserError
from finetune.example import SceneObject

FEATURES = object_features()

_DIFFICULT = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1, "unspecified": 0}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _WithoutDoctype(ET.TreeBuilder):
    """Refuses document types, the only place where a file can declare entities.

    `xml.etree` reads no external entities, but expands those declared in the file, and nested ones can
    exhaust the memory.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which annotations do not need; remove it")


def load_voc(options: Voc) -> Splits:
    """Read both splits, or hold out a share of `train`.

    A split is a folder with `Annotations/` and `JPEGImages/`, a list of its images
    (`ROOT/ImageSets/Main/train.txt`), or a folder with XML files next to the images. An object marked
    `difficult` becomes a crowd (`iscrowd` 1): not trained on, ignored in scoring.
    """
    files = [find_file(file, option, folder=True) for option, file in options.files()]
    sources = [_find_split(file, options.image_dir) | {"one_based": options.one_based} for file in files]
    return load_sources(read_voc, FEATURES, options, *sources, paths=("annotations",))


def _find_split(file: str, image_dir: str | None) -> dict[str, object]:
    """Return the reader's arguments for one split."""
    with reading(file):
        folder = _find_annotations(Path(file))
        default = folder.parent / "JPEGImages" if folder.name == "Annotations" else folder
        images = find_image_dir(file, image_dir or str(default))
        listed = Path(file).is_file()
        if listed:
            names = [line.strip() for line in iterate_lines(file) if line.strip()]
        else:
            names = sorted(path.stem for path in folder.glob("*.xml"))
            if not names:
                raise UserError(
                    f"{folder}: no XML files. {describe_folder(folder)} Expected a folder with "
                    "Annotations/*.xml and JPEGImages/, or with XML files next to the images."
                )
        # A given image_dir may also have the images of other splits.
        complete = not listed and image_dir is None
        return {
            "file": file,
            "annotations": tuple(str(folder / f"{name}.xml") for name in names),
            "image_dir": str(images),
            "unannotated": tuple(_find_unannotated(images, folder, set(names)) if complete else ()),
        }


def _find_unannotated(images: Path, folder: Path, names: set[str]) -> Iterator[tuple[str, str]]:
    """Yield images without an XML file, and the file that each lacks."""
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.stem not in names:
            yield str(path), str(folder / f"{path.stem}.xml")


def _find_annotations(file: Path) -> Path:
    """Return the folder of the XML files."""
    for folder in [file] if file.is_dir() else file.absolute().parents[:3]:
        if (folder / "Annotations").is_dir():
            return folder / "Annotations"
    if file.is_dir():
        return file
    raise UserError(
        f"{file}: no folder Annotations next to ImageSets. Expected ROOT/ImageSets/Main/NAME.txt."
    )


def read_voc(
    faults: Faults,
    file: str,
    annotations: tuple[str, ...],
    image_dir: str,
    unannotated: tuple[tuple[str, str], ...],
    one_based: bool,
) -> Iterator[Row]:
    """Yield a row for every XML file; `unannotated` has images without one, each with the file it lacks."""
    for path, expected in unannotated:
        with faults.skipping():
            raise UserError(
                f"{path}: no {expected}. Where nothing is on the image, write one without <object>."
            )
    for where in annotations:
        with faults.skipping():
            yield _read_image(faults, where, Path(image_dir), one_based)


def _read_image(faults: Faults, where: str, images: Path, one_based: bool) -> Row:
    root = _parse(Path(where))
    path, size = measure_image(_text(root, "filename", where), images, where)
    if root.find("size") is not None:
        height, width = (_number(root, f"size/{side}", where) for side in ("height", "width"))
        check_size((height, width), size, where)
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        with faults.skipping():
            objects.append(_read_object(element, size, f"{where} object {number}", one_based))
    return build_row(Path(where).stem, path, size, objects, where)


def _parse(file: Path) -> ET.Element:
    if not file.is_file():
        raise UserError(f"No file {file}.")
    try:
        root: ET.Element = ET.parse(file, ET.XMLParser(target=_WithoutDoctype())).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # the last: an unknown encoding
        raise UserError(f"{file}: not an XML file of annotations: {error}.") from error
    return root


def _read_object(element: ET.Element, size: tuple[int, int], where: str, one_based: bool) -> SceneObject:
    box = [_number(element, f"bndbox/{corner}", where) for corner in CORNERS]
    if one_based:
        box = [box[0] - 1, box[1] - 1, box[2], box[3]]
    difficult = _DIFFICULT.get(element.findtext("difficult", "0").strip().lower())
    if difficult is None:
        raise UserError(f"{where}: <difficult> must be 0 or 1, got {element.findtext('difficult')!r}.")
    return build_object(_text(element, "name", where), box, size, where, iscrowd=difficult)


def _text(element: ET.Element, path: str, where: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise UserError(f"{where}: no <{path.replace('/', '><')}>.")
    return text


def _number(element: ET.Element, path: str, where: str) -> float:
    text = _text(element, path, where)
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: <{path.replace('/', '><')}> must be a number, got {text!r}.") from error
