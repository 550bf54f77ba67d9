"""Rows in Arrow: memory-mapped files, so that their number does not matter to memory.

Every source returns `Splits` of rows with the columns `id`, `group`, `image` and those its task reads.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError

from finetune.errors import UserError


class Splits(NamedTuple):
    """The rows to train on and those to evaluate on."""

    train: Dataset
    validation: Dataset


def text_features(prompt: str, answers: str) -> Features:
    """Columns of a text source: what is asked, and every accepted answer."""
    text = Value("string")
    return Features(
        {"id": text, "group": text, "image": text, prompt: text, answers: List(Value("string"))}
    )


def build_rows(
    generate: Callable[..., Iterator[dict[str, Any]]], features: Features, **arguments: Any
) -> Dataset:
    """Write what a generator yields to Arrow, once; the same files give the same rows again from the cache.

    Args:
        generate: yields rows; gets the arguments by name, and `stamp`.
        features: the columns.
        arguments: what the rows depend on; the size and time of every file among them counts too.

    Raises:
        UserError: the generator's own.
    """
    files = [Path(value) for value in arguments.values() if isinstance(value, str)]
    stamp = [(f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    try:
        return Dataset.from_generator(
            generate, features=features, gen_kwargs={**arguments, "stamp": tuple(stamp)}
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    except ValueError:
        # What the generator raises arrives as above; this is the answer to one that yields nothing.
        return Dataset.from_dict({name: [] for name in features}, features=features)


def hold_out(rows: Dataset, fraction: float, seed: int = 0) -> Splits:
    """Divide rows so that those sharing a picture stay on one side.

    Args:
        rows: with a column `image`.
        fraction: share of the pictures that is held out; at least one, and not all.
        seed: of the draw.

    Raises:
        UserError: fewer than two pictures.
    """
    images = rows["image"][:]
    names = sorted(set(images))
    if len(names) < 2:
        raise UserError(
            "dataset.validation_fraction needs at least two different pictures; "
            "pass dataset.validation=FILE."
        )
    random.Random(seed).shuffle(names)
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    held = set(names[:count])
    outside = [i for i, image in enumerate(images) if image not in held]
    inside = [i for i, image in enumerate(images) if image in held]
    return Splits(rows.select(outside), rows.select(inside))


def shared_examples(splits: Splits, columns: list[str]) -> int:
    """Count the validation rows that also stand in train: the same picture and the same text."""
    keys = ["image", *columns]
    if not isinstance(splits.train.features["image"], Value):
        return 0  # pictures inside the rows: comparing bytes would read the whole data set
    seen = {tuple(map(str, row)) for row in zip(*(splits.train[key][:] for key in keys), strict=True)}
    rows = zip(*(splits.validation[key][:] for key in keys), strict=True)
    return sum(tuple(map(str, row)) in seen for row in rows)
