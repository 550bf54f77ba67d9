"""What was computed from images and is kept on disk: how much it is, and whether there is room."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import PIL
import pyarrow.compute as pc
import torch
from datasets import Dataset, List, Value
from transformers import PaliGemmaProcessor
from transformers import __version__ as transformers_version

from finetune.codecs.mask_vae import cache_folder
from finetune.config.schema import RunConfig
from finetune.data.examples.dataset import PICTURES, ExampleDataset
from finetune.data.stored.store import ImageStore
from finetune.speed import Technique


@dataclass(frozen=True)
class ImageCache:
    """What a job keeps of its images."""

    techniques: list[Technique]
    """The shortcuts that were considered."""
    store: ImageStore | None = None
    """None: nothing is kept or read."""
    is_full: bool = False
    """Whether all training images are stored already."""

    def attach(self, examples: ExampleDataset) -> ExampleDataset:
        """Return examples whose images are not decoded if they are stored."""
        return replace(examples, store=self.store)


def describe_resizing(config: RunConfig, processor: PaliGemmaProcessor) -> dict[str, str]:
    """Return what the resized pixels of an image depend on, besides its file.

    Args:
        config: `image` is read.
        processor: of the checkpoint.
    """
    return {
        "image processor": processor.image_processor.to_json_string(),
        "resize": str(config.image.resize),
        "pillow": PIL.__version__,
        "transformers": transformers_version,
    }


def find_changes(train: ExampleDataset | None) -> str | None:
    """Return why the images of a training are not the same in every epoch; None if they are."""
    if train is not None and train.augment is not None:
        return "augmentation changes the images (augmentation=none)"
    return None


def open_store(
    kind: str, about: Mapping[str, str], shape: tuple[int, ...], dtype: torch.dtype
) -> ImageStore:
    """Return the store of all records that depend on the same.

    Args:
        kind: `features` or `pixels`.
        about: what the records depend on, besides the image.
        shape: see `ImageStore`.
        dtype: see `ImageStore`.
    """
    key = blake2b(repr(sorted(about.items())).encode(), digest_size=16).hexdigest()
    return ImageStore(cache_folder() / kind / key, about, shape, dtype)


def open_room(
    option: str, store: ImageStore, splits: Sequence[ExampleDataset], what: str, share: float
) -> ImageCache:
    """Decide whether the disk has room for what is missing in a store.

    Args:
        option: of `trainer.speed`, for the log.
        store: its `spared` is set.
        splits: examples whose images are counted, the training split first.
        what: how large a record is, for the log.
        share: of the free disk that may be used.
    """
    counts = [count_images(split) for split in splits]
    stored = [replace(split, store=store).estimate_stored() for split in splits]
    missing = sum(round(count * (1 - there)) for count, there in zip(counts, stored, strict=True))
    rest = f"about {_format_bytes(missing * store.record_bytes)} are" if missing else "none are"
    size = (
        f"at most {_format_bytes(sum(counts) * store.record_bytes)} ({sum(counts):,} images x {what}), of "
        f"which {rest} missing, in {store.folder}"
    )
    free = _free_bytes(store.folder)
    if missing * store.record_bytes > free * share:
        room = f"{size}, where {_format_bytes(free)} are free, of which it takes {share:.0%}"
        why = f"no room: {room}; FINETUNE_CACHE names another folder"
        return ImageCache([Technique(option, False, why)])
    store.spared = int(free * (1 - share))
    detail = f"{size}; trainer.speed.{option}=false switches it off"
    return ImageCache([Technique(option, True, detail)], store, is_full=stored[0] == 1)


def count_images(examples: ExampleDataset) -> int:
    """Return how many images a split has, at most: a path counts once, however many rows name it."""
    rows, count = examples.rows, 0
    for name in set(PICTURES).intersection(rows.column_names):  # a mixture may have both
        kind = rows.features[name]
        if kind in (Value("string"), List(Value("string"))):
            count += _count_distinct(rows, name)
        else:
            count += len(rows) * (len(rows[0][name] or ()) if isinstance(kind, List) else 1)
    return count


def _count_distinct(rows: Dataset, name: str) -> int:
    column = rows.data.table.column(name)
    if rows._indices is not None:
        column = column.take(rows._indices.column(0))
    if isinstance(rows.features[name], List):
        column = pc.list_flatten(column)
    return int(pc.count_distinct(column, mode="only_valid").as_py())


def _format_bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _free_bytes(folder: Path) -> int:
    while not os.access(folder, os.F_OK):  # not `exists`, which raises where a folder may not be entered
        folder = folder.parent
    return shutil.disk_usage(folder).free
