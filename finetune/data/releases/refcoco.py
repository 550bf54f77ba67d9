"""RefCOCO, RefCOCO+ and RefCOCOg: expressions for one object of a photo, with its box and mask.

Under `root`: `refcoco/refs(unc).p`, `refcoco+/refs(unc).p`, `refcocog/refs(umd).p`, in each folder its
`instances.json`, and COCO's photos in `train2014/`.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import pick, read_json
from finetune.data.objects import build_object, object_features
from finetune.errors import UserError

_SETS = {
    "refcoco_unc": ("refcoco/refs(unc).p", ("train", "val", "testA", "testB")),
    "refcoco_plus_unc": ("refcoco+/refs(unc).p", ("train", "val", "testA", "testB")),
    "refcocog_umd": ("refcocog/refs(umd).p", ("train", "val", "test")),
}
SPLITS = (*(f"{name}_{part}" for name, (_, parts) in _SETS.items() for part in parts), "combined_train")
FEATURES = object_features("expression")


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield one row a sentence; groups are the splits.

    `combined_train` is what the paper trains on: the three training splits without the photos of which any
    of the three sets refers to something in another split.
    """
    folder = Path(root)
    if split != "combined_train":
        name, _, part = split.rpartition("_")
        own = [one for one in _load_references(folder, name) if one["split"] == part]
        yield from _join(faults, folder, name, own)
        return
    references = {name: _load_references(folder, name) for name in _SETS}
    held = {
        one["image_id"] for several in references.values() for one in several if one["split"] != "train"
    }
    for name, several in references.items():
        yield from _join(faults, folder, name, [one for one in several if one["image_id"] not in held])


def _join(
    faults: Faults, folder: Path, name: str, references: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the sentences of some references of one set, with the object that each means."""
    file = (folder / _SETS[name][0]).with_name("instances.json")
    parts = pick(read_json(file), str(file), "images", "annotations", "categories")
    images, annotations, categories = ({item["id"]: item for item in items} for items in parts)
    for one in references:
        with faults.skipping():
            where = f"{file}: annotation {one['ann_id']}"
            if one["ann_id"] not in annotations or one["image_id"] not in images:
                raise UserError(f"{where} of image {one['image_id']} is missing, but is referred to.")
            keys = ("category_id", "bbox", "segmentation", "area")
            category, box, segmentation, area = pick(annotations[one["ann_id"]], where, *keys)
            width, height = pick(images[one["image_id"]], where, "width", "height")
            # Without its mark of a crowd: what is referred to is learnt, whatever it is.
            found = build_object(
                categories[category]["name"],
                box,
                (height, width),
                where,
                layout="xywh",
                segmentation=segmentation,
                area=area,
            )
            # The references' own file names have a suffix that no photo has.
            photo = f"COCO_train2014_{one['image_id']:012d}.jpg"
            row = {
                "group": f"{name}_{one['split']}",
                "image": resolve_image(photo, folder / "train2014", where),
                "width": width,
                "height": height,
                "objects": [found],
            }
            for sentence in one["sentences"]:
                yield {**row, "id": f"{name}/{sentence['sent_id']}", "expression": sentence["sent"]}


def _load_references(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read a set's pickle, and check what is needed of it.

    Raises:
        UserError: there is no such file, or it holds anything but plain values.
    """
    file = folder / _SETS[name][0]
    if not file.is_file():
        raise UserError(f"No file {file}.")
    try:
        with file.open("rb") as stream:
            references = _PlainUnpickler(stream, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not the pickle of the release ({error}); copy it again.") from error
    if not isinstance(references, list):
        raise UserError(f"{file}: expected a list of references, got {type(references).__name__}.")
    for index, one in enumerate(references):
        where = f"{file}: reference {index}"
        for sentence in pick(one, where, "sentences", "split", "ann_id", "image_id")[0]:
            pick(sentence, where, "sent", "sent_id")
    return references


class _PlainUnpickler(pickle.Unpickler):
    """Builds numbers, text and containers alone: a pickle can otherwise run anything."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, not for plain values")
