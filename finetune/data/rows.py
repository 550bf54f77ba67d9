"""Rows in Arrow: memory-mapped files, so that their number does not matter to memory.

Every source returns `Splits` of rows with the columns `id`, `group`, `image` (or `images`, where an example
has several) and those its task reads.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError

from finetune.data.faults import Faults
from finetune.data.images import PICTURE_SUFFIXES
from finetune.errors import UserError

Reader = Callable[..., Iterator[dict[str, Any]]]
"""`(faults, **arguments)` to rows; what `faults.skipping` catches is left out."""

PICTURE = {"bytes": Value("binary"), "path": Value("string")}
"""The column `image` where pictures lie inside the rows."""

_FAULT = "__fault__"
_NO_PATHS = {"group", "kind", "separator", "split", "subset"}
"""Arguments of readers that are no paths, even where there is a file or folder of that name."""


class Built(NamedTuple):
    """The rows of one split, and what was left out of it, with the reason."""

    rows: Dataset
    skipped: list[str]


class Splits(NamedTuple):
    """The rows to train on and those to evaluate on."""

    train: Dataset
    validation: Dataset
    skipped: tuple[str, ...] = ()
    """What `on_error=skip` left out of either, with the reason."""


def text_features(*columns: str, lists: tuple[str, ...] = ()) -> Features:
    """Columns of a text source: `id`, `group`, `image`, these, and `lists` of strings."""
    text = Value("string")
    names = ("id", "group", "image", *columns)
    return Features({**dict.fromkeys(names, text), **{name: List(text) for name in lists}})


def build_rows(read: Reader, features: Features, on_error: str = "error", **arguments: Any) -> Built:
    """Write what a reader yields to Arrow, once; the same files give the same rows again from the cache.

    Args:
        read: yields rows; gets `faults`, and the arguments by name.
        features: the columns.
        on_error: `error` or `skip`.
        arguments: what the rows depend on; size and time of every file among them (also in a tuple), and
            of every file in a folder among them that is no picture, count too.

    Raises:
        UserError: the reader's own.
    """
    sources = [value for name, value in arguments.items() if name not in _NO_PATHS]
    values = [one for each in sources for one in (each if isinstance(each, tuple) else (each,))]
    paths = [Path(value) for value in values if isinstance(value, str)]
    stamp = tuple(mark for path in paths for mark in _stamp(path))
    try:
        rows = Dataset.from_generator(
            _generate,
            features=Features({**features, _FAULT: Value("string")}),
            gen_kwargs={
                "read": read,
                "columns": tuple(features),  # a list would be taken for shards
                "skip": on_error == "skip",
                "stamp": stamp,
                "arguments": arguments,
            },
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    except ValueError:
        # What the reader raises arrives as above; this is the answer to one that yields nothing.
        return Built(Dataset.from_dict({name: [] for name in features}, features=features), [])
    faults = rows[_FAULT][:]
    kept = [index for index, fault in enumerate(faults) if fault is None]
    skipped = [fault for fault in faults if fault is not None]
    rows = rows.remove_columns(_FAULT)
    return Built(rows.select(kept) if skipped else rows, skipped)


def _generate(
    read: Reader, columns: tuple[str, ...], skip: bool, stamp: Any, arguments: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the rows, and each fault as a row of its own, so that the cache keeps both."""
    faults = Faults(skip)
    nothing = dict.fromkeys(columns)
    origin = " ".join(str(arguments[name]) for name in ("file", "root", "split") if name in arguments)
    seen: set[str] = set()
    for row in read(faults, **arguments):
        with faults.skipping():
            if row["id"] in seen:
                raise UserError(f"{origin}: id `{row['id']}` stands twice; ids must differ.")
            seen.add(row["id"])
            yield {**row, _FAULT: None}
    yield from ({**nothing, _FAULT: fault} for fault in faults.found)


def _stamp(path: Path) -> Iterator[tuple[str, int, int]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() not in PICTURE_SUFFIXES and file.is_file():
                yield from _stamp(file)
    elif path.is_file():
        yield (path.name, path.stat().st_size, path.stat().st_mtime_ns)


def hold_out(rows: Dataset, fraction: float, seed: int = 0) -> Splits:
    """Divide rows so that those sharing a picture stay on one side.

    Args:
        rows: with a column `image` or `images`. Pictures inside the rows count as different ones.
        fraction: share of the pictures that is held out; at least one, and not all.
        seed: of the draw.

    Raises:
        UserError: fewer than two pictures.
    """
    key = "image" if "image" in rows.column_names else "images"
    inside_rows = "bytes" in str(rows.features[key])
    images = [str(image) for image in (range(len(rows)) if inside_rows else rows[key][:])]
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


def shared_examples(splits: Splits) -> int:
    """Count the validation rows that also stand in train: the same picture and the same text."""
    features = splits.train.features
    text = (Value("string"), List(Value("string")))
    keys = [name for name, kind in features.items() if kind in text and name not in {"id", "group"}]
    if not {"image", "images"}.intersection(keys):
        return 0  # pictures inside the rows: comparing bytes would read the whole data set
    seen = {tuple(map(str, row)) for row in zip(*(splits.train[key][:] for key in keys), strict=True)}
    rows = zip(*(splits.validation[key][:] for key in keys), strict=True)
    return sum(tuple(map(str, row)) in seen for row in rows)
