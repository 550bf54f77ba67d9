"""From a row to an `Example`, one at a time, in the workers that also make the batches."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch.utils.data
from datasets import Dataset
from PIL import ExifTags, Image

from finetune.data.images import Picture, check_size
from finetune.errors import UserError
from finetune.example import Example
from finetune.tasks.mixture import PART
from finetune.tasks.task import Task, Text

PICTURES = ("image", "images")
"""Columns with one picture, and with several."""


class Augment(Protocol):
    """Changes a picture, and its row with it."""

    def __call__(
        self, image: Image.Image, row: dict[str, Any], draw: random.Random
    ) -> tuple[Image.Image, dict[str, Any]]:
        """Return the changed picture and a row that is true of it."""


class ExampleDataset(torch.utils.data.Dataset[Example]):
    """The examples of one split.

    Args:
        rows: with the columns `id`, `group`, `image` or `images`, and those the task reads.
        task: says what prefix, suffixes and target are.
        split: its name, for error messages.
        seed: to train on: what the task draws follows from seed, epoch and id. Null: to evaluate on, the
            same in every epoch.
        augment: changes the pictures while training, those of one example all alike; null leaves them as
            they are.
        antialias: for each part of a mixture, or for the one source under `""`, whether big_vision resizes
            its images with antialiasing; images are then read as big_vision reads them. None: they are read
            upright, on white.

    Raises:
        UserError: the rows lack a column.
    """

    def __init__(
        self,
        rows: Dataset,
        task: Task,
        split: str,
        seed: int | None = None,
        augment: Augment | None = None,
        antialias: Mapping[str, bool] | None = None,
    ) -> None:
        task.check_columns(rows.column_names)
        self.rows = rows
        self.task = task
        self.split = split
        self.seed = seed
        self.augment = augment
        self.antialias = antialias

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        """Read one example.

        Args:
            key: its index, or (epoch, index) as `data/batches/order.py` draws them.

        Raises:
            UserError: a picture cannot be read, or the task cannot write the row.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = _name_part(self.rows[index])
        mark = f"{self.seed} {epoch} {row['id']}"
        draw = None if self.seed is None else random.Random(mark)
        images = self.load_images(row, f"{self.split} example `{row['id']}`")
        if len(images) == 1:
            row = self._with_size(row, images[0])
        if self.augment is not None and draw is not None:
            # The same draws for each picture of an example; the task's own stay what they are without.
            changed = [self.augment(image, row, random.Random(f"augment {mark}")) for image in images]
            images = [image for image, _ in changed]
            row = changed[0][1]
        text = self.task.build_text(row, draw)
        return Example(
            id=row["id"],
            images=tuple(images),
            prefix=text.prefix,
            suffixes=text.suffixes,
            target=self.task.build_target(row),
            group=row["group"],
            epoch=epoch,
            antialias=(self.antialias or {}).get(row.get(PART) or "", True),
        )

    def load_images(self, row: Mapping[str, Any], where: str) -> list[Image.Image]:
        """Decode the images of a row.

        Args:
            row: with `image` or `images`.
            where: the row, for the error message.

        Raises:
            UserError: one cannot be read.
        """
        as_stored = self.antialias is not None
        sources = row.get("images") or [row["image"]]
        pictures = [Picture(source, where) for source in sources]
        for picture in pictures:
            picture.check_link()
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

    def _with_size(self, row: dict[str, Any], image: Image.Image) -> dict[str, Any]:
        """Check the size that the row was annotated with; where it has none it gets the picture's."""
        width, height = image.size
        annotated = (row.get("height"), row.get("width"))
        check_size(annotated, (height, width), f"{self.split} example `{row['id']}`")
        return {**row, "width": width, "height": height}

    def select(self, indices: list[int] | range) -> "ExampleDataset":
        """Return a part of it."""
        part = copy.copy(self)
        part.rows = self.rows.select(indices)
        return part

    def iterate_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows without their pictures: everything but these is quick to read."""
        columns = [name for name in self.rows.column_names if name not in PICTURES]
        for batch in self.rows.select_columns(columns).iter(batch_size=100):
            for values in zip(*batch.values(), strict=True):
                yield _name_part(dict(zip(batch, values, strict=True)))

    def find_overflow(
        self, find_too_long: Callable[[str, Sequence[str]], dict[str, int]], budget: int
    ) -> "Overflow":
        """Find the texts that are longer than the budget, without decoding an image.

        Args:
            find_too_long: of a prefix and suffixes, the suffixes that do not fit and their tokens.
            budget: the most tokens allowed, for the message.
        """
        found = Overflow({}, [])
        for index, row in enumerate(self.iterate_rows()):
            text: Text = self.task.measure_text(row)
            if not text.suffixes:
                raise UserError(f"{self.split} example `{row['id']}` has no suffix to train on.")
            too_long = find_too_long(text.prefix, text.suffixes)
            needs = {suffix: f"needs {count} text tokens of {budget}" for suffix, count in too_long.items()}
            if len(too_long) == len(set(text.suffixes)):
                shortest = min(too_long, key=too_long.__getitem__)
                found.examples[index] = {"id": row["id"], "reason": needs[shortest]}
                continue
            for suffix, need in needs.items():
                reason = f"with this one of its {len(text.suffixes)} suffixes it {need}"
                found.suffixes.append({"id": row["id"], "suffix": suffix, "reason": reason})
        return found


class Overflow(NamedTuple):
    """The texts that are too long."""

    examples: dict[int, dict[str, str]]
    """Index of each example without a suffix that fits: its `id`, and the `reason`."""
    suffixes: list[dict[str, str]]
    """`id`, `suffix` and `reason` of what does not fit where other suffixes of the example do."""


def _name_part(row: dict[str, Any]) -> dict[str, Any]:
    """In a mixture, put the part's name before the id, and score each part as a group."""
    part = row.get(PART)
    return row if part is None else {**row, "id": f"{part}/{row['id']}", "group": part}
