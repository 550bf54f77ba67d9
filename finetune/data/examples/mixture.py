"""Several sources in one run: their rows in one table, each naming the part that it comes from."""

from collections.abc import Mapping
from itertools import groupby

from datasets import Dataset, Features, Value, concatenate_datasets

from finetune.data.options import Part
from finetune.data.rows import PICTURE, Splits
from finetune.errors import UserError
from finetune.tasks.mixture import PART


def load_parts(parts: Mapping[str, Part]) -> Splits:
    """Load every part's source, with as many rows to train on as its `limit` says."""
    loaded = {name: part.source.load() for name, part in parts.items()}
    return mix_splits(
        {
            name: splits._replace(train=first_rows(splits.train, parts[name].limit))
            for name, splits in loaded.items()
        }
    )


def mix_splits(parts: Mapping[str, Splits]) -> Splits:
    """Put the parts behind each other; columns that a part lacks are null in its rows.

    Args:
        parts: name -> its splits.

    Raises:
        UserError: a column has different types in two parts.
    """
    return Splits(
        _stack({name: splits.train for name, splits in parts.items()}),
        _stack({name: splits.validation for name, splits in parts.items()}),
        tuple(f"{name}: {fault}" for name, splits in parts.items() for fault in splits.skipped),
    )


def part_ranges(rows: Dataset) -> dict[str, range]:
    """Return where the rows of each part lie, in their order; empty where the rows are no mixture."""
    if PART not in rows.column_names:
        return {}
    ranges: dict[str, range] = {}
    start = 0
    for name, own in groupby(rows[PART][:]):
        ranges[name] = range(start, start + len(list(own)))
        start = ranges[name].stop
    return ranges


def count_parts(rows: Dataset) -> dict[str, int]:
    """Return how many rows each part has, in their order; empty where the rows are no mixture."""
    return {name: len(own) for name, own in part_ranges(rows).items()}


def first_rows(rows: Dataset, count: int | None) -> Dataset:
    """Return the first rows; of a mixture as many of each part, as far as they go; all for null."""
    if count is None:
        return rows
    parts = part_ranges(rows) or {"": range(len(rows))}
    shares = ((count + number) // len(parts) for number in range(len(parts)))
    return rows.select(
        [index for own, share in zip(parts.values(), shares, strict=True) for index in own[:share]]
    )


def _stack(parts: Mapping[str, Dataset]) -> Dataset:
    full = {name: rows for name, rows in parts.items() if len(rows)}
    if not full:  # the caller reports an empty split
        return next(iter(parts.values()))
    parts = full
    if any(isinstance(rows.features.get("image"), dict) for rows in parts.values()):
        parts = {name: _hold_bytes(rows) for name, rows in parts.items()}
    kinds: dict[str, tuple[str, object]] = {}
    for name, rows in parts.items():
        for column, kind in rows.features.items():
            first, known = kinds.setdefault(column, (name, kind))
            if known != kind:
                raise UserError(
                    f"Parts `{first}` and `{name}` cannot be mixed: column `{column}` is {known} in one "
                    f"and {kind} in the other. Rename it in one of them, or leave it out."
                )
    named = [
        rows.add_column(PART, [name] * len(rows), feature=Value("string")) for name, rows in parts.items()
    ]
    return concatenate_datasets(named)


def _hold_bytes(rows: Dataset) -> Dataset:
    """Write paths in the form of pictures inside the rows."""
    if "image" not in rows.column_names or isinstance(rows.features["image"], dict):
        return rows
    return rows.map(
        lambda row: {"image": {"bytes": None, "path": row["image"]}},
        features=Features({**rows.features, "image": PICTURE}),
        desc="Mixing",
    )
