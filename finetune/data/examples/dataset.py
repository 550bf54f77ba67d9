"""From a row to an `Example`, one at a time, in the workers that also make the batches."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
import torch.utils.data
from datasets import Dataset
from PIL import ExifTags, Image

from finetune.data.examples.augment import Augmentation, Values
from finetune.data.images import Picture, check_size
from finetune.data.stored.store import ImageStore, Stored, make_key
from finetune.errors import UserError
from finetune.example import Example
from finetune.tasks.grammar import Grammar, build_form, check_grammar
from finetune.tasks.mixture import PART
from finetune.tasks.task import Row, Task

PICTURES = ("image", "images")
"""Columns with one image, and with several."""

_GREY = (128, 128, 128)
_SAMPLED = 64
"""Rows whose images are read to estimate how many are stored."""


@dataclass(frozen=True, eq=False)
class ExampleDataset(torch.utils.data.Dataset[Example]):
    """The examples of one split.

    Raises:
        UserError: the rows lack a column, or the grammar does not fit the task.
    """

    rows: Dataset
    """With the columns `id`, `group`, `image` or `images`, and those the task reads."""
    task: Task
    """Builds prefix, suffixes and target."""
    split: str
    """Its name, for error messages."""
    seed: int | None = None
    """For training: the task's random choices follow from (seed, epoch, id). None: for evaluation, the same
    in every epoch."""
    augment: Augmentation | None = None
    """Changes the images during training, all of one example alike; None: they are unchanged."""
    antialias: Mapping[str, bool] | None = None
    """For each part of a mixture, or for the one source under `""`, whether big_vision resizes its images
    with antialiasing; images are then read as big_vision reads them. None: upright, on white."""
    grammar: Grammar = Grammar.none
    """Of the answers to the examples."""

    blank: bool = False
    """Whether each image is replaced with a gray one of its size, to learn what is answered unseen."""
    store: ImageStore | None = None
    """Images that are stored, as pixels or features, are not decoded; not with `augment` or `blank`."""

    def __post_init__(self) -> None:
        self.task.check_columns(self.rows.column_names)
        if self.grammar != Grammar.none:
            check_grammar(self.task, self.grammar)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        """Read one example.

        Args:
            key: its index, or (epoch, index) as `data/batches/order.py` draws them.

        Raises:
            UserError: an image cannot be read, or the task cannot write the row.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = prefix_part(self.rows[index])
        mark = f"{self.seed} {epoch} {row['id']}"
        draw = None if self.seed is None else random.Random(mark)
        where = f"{self.split} example `{row['id']}`"
        pictures = self._open_images(row, where)
        keys: list[str] = []
        stored: list[Stored] = []
        if self._has_store:
            # Decoded from the bytes that have the key: a file may change meanwhile.
            pictures = [Picture({"bytes": one.read(), "path": one.path}, where) for one in pictures]
            keys = self._make_keys(row, pictures)
            stored = self._read_stored(row, keys)
        images = [] if stored else self._decode(row, pictures, where)
        sizes = [one.size for one in stored or images]
        if len(sizes) == 1:
            row = self._with_size(row, sizes[0])
        if self.augment is not None and draw is not None:
            # The same draws for each image, from a separate generator: those of the task do not change.
            changed = [self.augment(image, row, random.Random(f"augment {mark}")) for image in images]
            images = [image for image, _ in changed]
            row = changed[0][1]
        if self.blank:
            images = [Image.new("RGB", image.size, _GREY) for image in images]
        text = self.task.build_text(row, draw)
        return Example(
            id=row["id"],
            images=tuple(images),
            prefix=text.prefix,
            suffixes=text.suffixes,
            target=self.task.build_target(row),
            group=row["group"],
            # Of training no row is written, and a digest takes time.
            image=None if self.seed is not None else _name_images(row),
            epoch=epoch,
            keys=tuple(f"{key} {width} {height}" for key, (width, height) in zip(keys, sizes, strict=True))
            if keys
            else (),
            stored=tuple(one.values for one in stored),
            antialias=self._antialiases(row),
            form=build_form(self.task, self.grammar, row, text.prefix),
        )

    @property
    def _has_store(self) -> bool:
        return self.store is not None and self.augment is None and not self.blank

    def _make_keys(self, row: Row, pictures: Sequence[Picture]) -> list[str]:
        as_stored = self.antialias is not None
        variant = (as_stored, as_stored and self._antialiases(row))
        return [make_key(picture.read(), *variant) for picture in pictures]

    def _read_stored(self, row: Row, keys: Sequence[str]) -> list[Stored]:
        """Return what is stored of a row's images, if all of them are there."""
        if self.antialias is not None and row.get("objects"):
            return []  # whether they are upright is seen when they are decoded
        assert self.store is not None, "keys are made for a store"
        found = [self.store.read(key) for key in keys]
        return [one for one in found if one is not None] if None not in found else []

    def estimate_stored(self) -> float:
        """Return the share of rows whose images are all stored, from some of them: 0 to 1.

        Raises:
            UserError: an image cannot be read.
        """
        if self.store is None or not self._has_store or not len(self.store):
            return 0.0
        some = np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(int)).tolist()
        stored = 0
        for index in some:
            row = self.rows[index]
            pictures = self._open_images(row, f"{self.split} example `{row['id']}`")
            stored += all(key in self.store for key in self._make_keys(row, pictures))
        return stored / len(some)

    def _antialiases(self, row: Row) -> bool:
        return (self.antialias or {}).get(row.get(PART) or "", True)

    def _open_images(self, row: Row, where: str) -> list[Picture]:
        pictures = [Picture(source, where) for source in row.get("images") or [row["image"]]]
        for picture in pictures:
            picture.check_link()
        return pictures

    def load_images(self, row: Row, where: str) -> list[Image.Image]:
        """Decode the images of a row.

        Args:
            row: with `image` or `images`.
            where: the row, for the error message.

        Raises:
            UserError: one cannot be read.
        """
        return self._decode(row, self._open_images(row, where), where)

    def _decode(self, row: Row, pictures: Sequence[Picture], where: str) -> list[Image.Image]:
        as_stored = self.antialias is not None
        images = [picture.load(as_stored) for picture in pictures]
        if as_stored and row.get("objects"):
            for image in images:
                if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                    raise UserError(
                        f"{where}: its image is stored turned or mirrored (EXIF), which image.resize=paper "
                        "ignores, but boxes and masks are meant upright. Turn the file, or choose "
                        "image.resize=bicubic or bilinear."
                    )
        return images

    def _with_size(self, row: Values, size: tuple[int, int]) -> Values:
        """Check the annotated size of a row; a row without one gets width and height of its image."""
        width, height = size
        annotated = (row.get("height"), row.get("width"))
        check_size(annotated, (height, width), f"{self.split} example `{row['id']}`")
        return {**row, "width": width, "height": height}

    def select(self, indices: Sequence[int] | np.ndarray) -> "ExampleDataset":
        """Return some of the examples."""
        return replace(self, rows=self.rows.select(indices))

    def iterate_rows(self) -> Iterator[Values]:
        """Yield the rows without their images, which are slow to read."""
        for batch in self._without_pictures().iter(batch_size=100):
            for values in zip(*batch.values(), strict=True):
                yield prefix_part(dict(zip(batch, values, strict=True)))

    def count_images(self) -> np.ndarray:
        """Return the number of images of each example, without reading them: (len,) int64."""
        if "images" not in self.rows.column_names:
            return np.ones(len(self), dtype=np.int64)
        counts = pc.list_value_length(self.rows.data.table.column("images"))
        if self.rows._indices is not None:
            counts = counts.take(self.rows._indices.column(0))
        # A row of a mixture may have one image in the other column.
        return np.maximum(counts.fill_null(1).to_numpy(), 1)

    def read_rows(self) -> Callable[[int], Values]:
        """Return a function that reads a row by its index, without its images."""
        rows = self._without_pictures()
        return lambda index: prefix_part(rows[index])

    def _without_pictures(self) -> Dataset:
        return self.rows.select_columns([name for name in self.rows.column_names if name not in PICTURES])


def _name_images(row: Row) -> str:
    sources = row.get("images") or [row["image"]]
    return ", ".join(Picture(source, "").key for source in sources)


def prefix_part(row: Values) -> Values:
    """In a mixture, put the part's name before the id, and score each part as a group."""
    part = row.get(PART)
    return row if part is None else {**row, "id": f"{part}/{row['id']}", "group": part}
