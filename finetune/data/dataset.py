"""From a row to an `Example`, one at a time, in the workers that also make the batches."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch.utils.data
from datasets import Dataset
from PIL import Image

from finetune.data.images import check_size, load_image
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
    ) -> None:
        task.check_columns(rows.column_names)
        self.rows = rows
        self.task = task
        self.split = split
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        """Read one example.

        Args:
            key: its index, or (epoch, index) as `training/order.py` draws them.

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
        )

    def load_images(self, row: Mapping[str, Any], where: str) -> list[Image.Image]:
        """Decode the images of a row.

        Args:
            row: with `image` or `images`.
            where: the row, for the error message.

        Raises:
            UserError: one cannot be read.
        """
        sources = row.get("images") or [row["image"]]
        return [load_image(source, where) for source in sources]

    def _with_size(self, row: dict[str, Any], image: Image.Image) -> dict[str, Any]:
        """Check the size that the row was annotated with; where it has none it gets the picture's."""
        width, height = image.size
        annotated = (row.get("height"), row.get("width"))
        check_size(annotated, (height, width), f"{self.split} example `{row['id']}`")
        return {**row, "width": width, "height": height}

    def select(self, indices: list[int] | range) -> "ExampleDataset":
        """Return a part of it."""
        return ExampleDataset(self.rows.select(indices), self.task, self.split, self.seed, self.augment)

    def iterate_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows without their pictures: everything but these is quick to read."""
        columns = [name for name in self.rows.column_names if name not in PICTURES]
        for batch in self.rows.select_columns(columns).iter(batch_size=100):
            for values in zip(*batch.values(), strict=True):
                yield _name_part(dict(zip(batch, values, strict=True)))

    def find_overflow(
        self, count_tokens: Callable[[str, str], int], budget: int, prefix_is_cut: bool = False
    ) -> dict[int, str]:
        """Find the examples whose text is longer than the budget, without decoding a picture.

        Args:
            count_tokens: length of prefix, newline and suffix with BOS and EOS.
            budget: the most tokens allowed.
            prefix_is_cut: prefixes are cut to what suffixes leave: only these can be too long.

        Returns:
            For each index what is wrong with it.
        """
        found: dict[int, str] = {}
        for index, row in enumerate(self.iterate_rows()):
            text: Text = self.task.measure_text(row)
            if not text.suffixes:
                raise UserError(f"{self.split} example `{row['id']}` has no suffix to train on.")
            prefix = "" if prefix_is_cut else text.prefix
            longest = max(text.suffixes, key=lambda suffix: len(suffix.encode()))
            # No token is shorter than a byte: short texts need no tokeniser.
            if len(prefix.encode()) + len(longest.encode()) + 3 <= budget:
                continue
            tokens = max(count_tokens(prefix, suffix) for suffix in set(text.suffixes))
            if tokens > budget:
                found[index] = f"`{row['id']}` needs {tokens} text tokens of {budget}"
        return found


def _name_part(row: dict[str, Any]) -> dict[str, Any]:
    """In a mixture, put the part's name before the id, and score each part as a group."""
    part = row.get(PART)
    return row if part is None else {**row, "id": f"{part}/{row['id']}", "group": part}
