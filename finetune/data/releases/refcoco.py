"""RefCOCO, RefCOCO+ and RefCOCOg: expressions for one object of a photo, with its box and mask.

Under `root`: `refcoco/refs(unc).p`, `refcoco+/refs(unc).p`, `refcocog/refs(umd).p`, in each folder its
`instances.json`, where big_vision takes boxes and masks from COCO 2017's annotations, and COCO's photos in
`train2014/`.
"""

import pickle
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NoReturn

from finetune.data.images import check_size, measure_image
from finetune.data.objects import build_object, object_features
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import check_file, index_items, read_record
from finetune.data.reading.record import Record, describe_value
from finetune.data.rows import Row
from finetune.errors import UserError
from finetune.example import SceneObject

_SETS = {
    "refcoco_unc": ("refcoco/refs(unc).p", ("train", "val", "testA", "testB")),
    "refcoco_plus_unc": ("refcoco+/refs(unc).p", ("train", "val", "testA", "testB")),
    "refcocog_umd": ("refcocog/refs(umd).p", ("train", "val", "test")),
}
SPLITS = (*(f"{name}_{part}" for name, (_, parts) in _SETS.items() for part in parts), "combined_train")
FEATURES = object_features("expression")


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
    """Yield one row per sentence; groups are the splits.

    `combined_train` is what the paper trains on: the three training splits without the photos that occur
    in another split of any of the three sets.
    """
    folder = Path(root)
    if split != "combined_train":
        name, _, part = split.rpartition("_")
        references = _load_references(faults, folder, name)
        yield from _join(faults, folder, name, [ref for ref in references if ref["split"] == part])
        return
    loaded = {name: _load_references(faults, folder, name) for name in _SETS}
    evaluated = {
        ref.identifier("image_id")
        for references in loaded.values()
        for ref in references
        if ref["split"] != "train"
    }
    for name, references in loaded.items():
        kept = [ref for ref in references if ref.identifier("image_id") not in evaluated]
        yield from _join(faults, folder, name, kept)


def _join(faults: Faults, folder: Path, name: str, references: list[Record]) -> Iterator[Row]:
    """Yield the sentences of some references of one set, with the object that each means."""
    file = (folder / _SETS[name][0]).with_name("instances.json")
    content = read_record(file)
    keys = ("images", "annotations", "categories")
    images, annotations, categories = (index_items(faults, content, key) for key in keys)
    for ref in references:
        with faults.skipping():
            image_id, annotation_id = ref.identifier("image_id"), ref.identifier("ann_id")
            where = f"{file}: annotation {annotation_id}"
            if annotation_id not in annotations or image_id not in images:
                raise UserError(
                    f"{ref.where}: annotation {annotation_id} of image {image_id} is missing in {file}."
                )
            annotation, image = annotations[annotation_id], images[image_id]
            if annotation.identifier("image_id") != image_id:
                raise UserError(
                    f"{where}: `image_id` is {annotation['image_id']}, but {ref.where} has {image_id}."
                )
            # The file names in the references have a suffix that no photo has.
            photo = f"COCO_train2014_{ref.integer('image_id', range(10**12)):012d}.jpg"
            path, size = measure_image(photo, folder / "train2014", where)
            check_size((image.integer("height"), image.integer("width")), size, image.where)
            row = {
                "group": f"{name}_{ref['split']}",
                "image": path,
                "width": size[1],
                "height": size[0],
                "objects": [_build_object(annotation, categories, size)],
            }
            for sentence in ref.records("sentences"):
                row_id = f"{name}/{sentence.identifier('sent_id')}"
                yield {**row, "id": row_id, "expression": sentence.text("sent")}


def _build_object(annotation: Record, categories: dict[str, Record], size: tuple[int, int]) -> SceneObject:
    """Return the object of one annotation, without its crowd flag: it is trained on in any case."""
    category = annotation.identifier("category_id")
    if category not in categories:
        raise UserError(f"{annotation.where}: there is no category {category} in `categories`.")
    if not annotation["segmentation"] or not isinstance(annotation["segmentation"], list | dict):
        shown = describe_value(annotation["segmentation"])
        raise UserError(
            f"{annotation.where}: `segmentation`: expected polygons or run lengths, got {shown}."
        )
    return build_object(
        categories[category].text("name"),
        annotation.numbers("bbox"),
        size,
        annotation.where,
        layout="xywh",
        segmentation=annotation["segmentation"],
        area=annotation.number("area"),
    )


def _load_references(faults: Faults, folder: Path, name: str) -> list[Record]:
    """Read a set's pickle, and check what its splits are made by.

    Raises:
        UserError: there is no such file, or it holds anything but plain values.
    """
    path, parts = _SETS[name]
    file = folder / path
    check_file(file)
    try:
        stream = BytesIO(file.read_bytes())
        loaded = _PlainUnpickler(stream, encoding="latin1").load()
        if stream.read(1):
            raise pickle.UnpicklingError("there is data after its end")
    except Exception as error:  # what a damaged pickle raises is not limited
        raise UserError(
            f"{file}: not the pickle of the release ({error!r:.200}); copy it again."
        ) from error
    if not isinstance(loaded, list):
        raise UserError(f"{file}: expected a list of references, got {describe_value(loaded)}.")
    references = []
    for number, values in enumerate(loaded, 1):
        with faults.skipping():
            ref = Record(values, f"{file}: reference {number}")
            ref.integer("image_id", range(10**12))
            ref.choice("split", parts)
            references.append(ref)
    return references


# The unpickler in C reserves memory for any number that a file names.
class _PlainUnpickler(pickle._Unpickler):
    """Builds numbers, text and containers alone: a pickle can otherwise run anything."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, not for plain values")
