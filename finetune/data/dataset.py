"""From a row to an `Example`, one at a time, in the workers that also make the batches."""

from collections.abc import Callable

import torch.utils.data
from datasets import Dataset

from finetune.data.images import load_image
from finetune.errors import UserError
from finetune.example import Example
from finetune.tasks.text import TextTask


class ExampleDataset(torch.utils.data.Dataset[Example]):
    """The examples of one split.

    Args:
        rows: with the columns `id`, `group`, `image` and those the task reads.
        task: says what prefix and suffixes are.
        split: its name, for error messages.

    Raises:
        UserError: the rows lack a column.
    """

    def __init__(self, rows: Dataset, task: TextTask, split: str) -> None:
        task.check_columns(rows.column_names)
        self.rows = rows
        self.task = task
        self.split = split

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        """Read one example.

        Args:
            key: its index, or (epoch, index) as `training/order.py` draws them.

        Raises:
            UserError: the picture cannot be read.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.rows[index]
        return Example(
            id=row["id"],
            images=(load_image(row["image"], f"{self.split} example `{row['id']}`"),),
            prefix=self.task.build_prefix(row),
            suffixes=self.task.build_suffixes(row),
            group=row["group"],
            epoch=epoch,
        )

    def select(self, indices: list[int] | range) -> "ExampleDataset":
        """Return a part of it."""
        return ExampleDataset(self.rows.select(indices), self.task, self.split)

    def find_overflow(self, count_tokens: Callable[[str, str], int], budget: int) -> dict[int, str]:
        """Find the examples whose text is longer than the budget, without decoding a picture.

        Args:
            count_tokens: length of prefix, newline and suffix with BOS and EOS.
            budget: the most tokens allowed.

        Returns:
            For each index what is wrong with it.
        """
        columns = [name for name in self.rows.column_names if name != "image"]
        found: dict[int, str] = {}
        for index, row in enumerate(self.rows.select_columns(columns)):
            prefix, suffixes = self.task.build_prefix(row), self.task.build_suffixes(row)
            if not suffixes:
                raise UserError(f"{self.split} example `{row['id']}` has no suffix to train on.")
            longest = max(suffixes, key=lambda suffix: len(suffix.encode()))
            # No token is shorter than a byte: short texts need no tokeniser.
            if len(prefix.encode()) + len(longest.encode()) + 3 <= budget:
                continue
            tokens = max(count_tokens(prefix, suffix) for suffix in set(suffixes))
            if tokens > budget:
                found[index] = f"`{row['id']}` needs {tokens} text tokens of {budget}"
        return found
