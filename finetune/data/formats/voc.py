"""Pascal VOC: one XML file per image, with named boxes."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.annotations import Voc
from finetune.data.formats.splits import describe_folder, find_image_dir, find_split_files, load_sources
from finetune.data.images import IMAGE_SUFFIXES, check_size, measure_image
from finetune.data.layouts.voc import IMAGE_FOLDERS, find_splits
from finetune.data.objects import Note, build_object, build_row, object_features
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.tables import iterate_lines
from finetune.data.reading.xml import find_number, find_text, parse_xml
from finetune.data.rows import Row, Splits
from finetune.errors import UserError
from finetune.example import SceneObject

FEATURES = object_features()

_DIFFICULT = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1, "unspecified": 0}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def load_voc(options: Voc) -> Splits:
    """Read both splits, or hold out a share of `train`.

    A split is a folder with `Annotations/` and `JPEGImages/`, a list of its images
    (`ROOT/ImageSets/Main/train.txt`), or a folder with XML files next to the images. An object marked
    `difficult` becomes a crowd (`iscrowd` 1): not trained on, ignored in scoring.
    """
    expected = "XML files: Annotations/*.xml and JPEGImages/, or XML files next to the images"
    files = find_split_files(options, find_splits, expected)
    choices = {"one_based": options.one_based, "clip": options.clip}

    def gather(names: Sequence[str]) -> list[dict[str, object]]:
        return [{**_find_split(name, options.image_dir), **choices} for name in names]

    validation = None if files.validation is None else gather(files.validation)
    return load_sources(
        read_voc, FEATURES, options, gather(files.train), validation, paths=("annotations",)
    )


def _find_split(file: str, image_dir: str | None) -> dict[str, object]:
    """Return the reader's arguments for one split."""
    with reading(file):
        folder = _find_annotations(Path(file))
        default = _find_images(folder)
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


def _find_images(folder: Path) -> Path:
    """Return the folder of the images: next to `Annotations`, or that of the XML files themselves."""
    if folder.name != "Annotations":
        return folder
    places = [folder.parent / name for name in IMAGE_FOLDERS]
    return next((place for place in places if place.is_dir()), places[0])


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
    clip: bool,
) -> Iterator[Row]:
    """Yield a row for every XML file.

    Args:
        faults: what to do with an image or an object that cannot be used.
        file: the folder, or the list.
        annotations: the XML files.
        image_dir: folder of the images.
        unannotated: images without an XML file, and the file that each lacks.
        one_based: as in `load_voc`.
        clip: clip boxes that are partly outside their images.
    """
    for path, expected in unannotated:
        with faults.skipping():
            raise UserError(
                f"{path}: no {expected}. Where nothing is on the image, write one without <object>."
            )
    for where in annotations:
        with faults.skipping():
            yield _read_image(faults, where, Path(image_dir), one_based, faults.note if clip else None)


def _read_image(faults: Faults, where: str, images: Path, one_based: bool, clip: Note | None) -> Row:
    root = parse_xml(Path(where))
    name = _add_ending(find_text(root, "filename", where), images)
    path, size = measure_image(name, images, where)
    if root.find("size") is not None:
        height, width = (find_number(root, f"size/{side}", where) for side in ("height", "width"))
        check_size((height, width), size, where)
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        with faults.skipping():
            objects.append(_read_object(element, size, f"{where} object {number}", one_based, clip))
    return build_row(Path(where).stem, path, size, objects, where)


def _add_ending(name: str, images: Path) -> str:
    """Return the name of an image with its ending, which Label Studio leaves out."""
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return name
    spelled = (name + ending for suffix in sorted(IMAGE_SUFFIXES) for ending in (suffix, suffix.upper()))
    return next((full for full in spelled if (images / full).is_file()), name)


def _read_object(
    element: ET.Element, size: tuple[int, int], where: str, one_based: bool, clip: Note | None
) -> SceneObject:
    box = [find_number(element, f"bndbox/{corner}", where) for corner in CORNERS]
    if one_based:
        box = [box[0] - 1, box[1] - 1, box[2], box[3]]
    difficult = _DIFFICULT.get(element.findtext("difficult", "0").strip().lower())
    if difficult is None:
        raise UserError(f"{where}: <difficult> must be 0 or 1, got {element.findtext('difficult')!r}.")
    return build_object(find_text(element, "name", where), box, size, where, iscrowd=difficult, clip=clip)
