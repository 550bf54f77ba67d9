"""Several sources in one run: their rows in one table, each naming the part that it comes from."""

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets

from finetune.data.options import Mixture
from finetune.data.rows import PICTURE, Splits
from finetune.errors import UserError
from finetune.tasks.mixture import PART


def load_parts(options: Mixture) -> Splits:
    """Load every part's source, with as many rows to train on as its `limit` says."""
    loaded = {}
    for name, part in options.parts.items():
        splits = part.source.load()
        loaded[name] = splits._replace(train=first_rows(splits.train, part.limit))
    return mix_splits(loaded)


def mix_splits(parts: Mapping[str, Splits]) -> Splits:
    """Concatenate the parts; columns that a part lacks are null in its rows.

    Args:
        parts: name -> its splits.

    Raises:
        UserError: a column has different types in two parts.
    """
    return Splits(
        _concatenate({name: splits.train for name, splits in parts.items()}),
        _concatenate({name: splits.validation for name, splits in parts.items()}),
        tuple(f"{name}: {fault}" for name, splits in parts.items() for fault in splits.skipped),
    )


def part_ranges(rows: Dataset) -> dict[str, range]:
    """Return the rows of each part as a range, in order; empty where the rows are not a mixture."""
    if PART not in rows.column_names:
        return {}
    names = rows.select_columns(PART).with_format("arrow")[:][PART].combine_chunks()
    runs = pc.run_end_encode(names)
    ends = runs.run_ends.to_pylist()
    return dict(zip(runs.values.to_pylist(), map(range, [0, *ends], ends), strict=True))


def count_parts(rows: Dataset) -> dict[str, int]:
    """Return the number of rows of each part, in order; empty where the rows are not a mixture."""
    return {name: len(part) for name, part in part_ranges(rows).items()}


def first_rows(rows: Dataset, count: int | None) -> Dataset:
    """Return the first rows; of a mixture as many of each part, as far as they go; all for None."""
    if count is None:
        return rows
    parts = part_ranges(rows) or {"": range(len(rows))}
    shares = ((count + number) // len(parts) for number in range(len(parts)))
    kept = [part[:share] for part, share in zip(parts.values(), shares, strict=True)]
    return rows.select(np.concatenate([np.arange(part.start, part.stop) for part in kept]))


def _concatenate(parts: Mapping[str, Dataset]) -> Dataset:
    full = {name: rows for name, rows in parts.items() if len(rows)}
    if not full:  # the caller reports an empty split
        return next(iter(parts.values()))
    if any(isinstance(rows.features.get("image"), dict) for rows in full.values()):
        full = {name: _paths_to_structs(rows) for name, rows in full.items()}
    kinds: dict[str, tuple[str, object]] = {}
    for name, rows in full.items():
        for column, kind in rows.features.items():
            first, known = kinds.setdefault(column, (name, kind))
            if known != kind:
                raise UserError(
                    f"Parts `{first}` and `{name}` cannot be mixed: column `{column}` is {known} in one "
                    f"and {kind} in the other. Rename it in one of them, or leave it out."
                )
    text = Value("string")
    return concatenate_datasets(
        [rows.add_column(PART, [name] * len(rows), feature=text) for name, rows in full.items()]
    )


def _paths_to_structs(rows: Dataset) -> Dataset:
    """Write paths in the form of images inside the rows."""
    if "image" not in rows.column_names or isinstance(rows.features["image"], dict):
        return rows
    return rows.map(
        lambda row: {"image": {"bytes": None, "path": row["image"]}},
        features=Features({**rows.features, "image": PICTURE}),
        desc="Mixing",
    )
