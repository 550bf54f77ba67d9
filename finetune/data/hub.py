"""A data set in parquet, on the Hub or in a folder, by the names of its columns."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Image, List, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError

from finetune.data.rows import Splits
from finetune.errors import UserError


def load_hub(
    path: str,
    name: str | None,
    revision: str | None,
    train: str,
    validation: str,
    columns: Mapping[str, str | None],
) -> Splits:
    """Load two splits and rename their columns to `id`, `group`, `image`, `question`, `answers`.

    Args:
        path: Hub id or folder.
        name: configuration of the data set.
        revision: branch, tag or commit.
        train: split to train on, slices allowed.
        validation: split to evaluate on.
        columns: the data set's name for each of ours; `id` and `group` may be null.

    Raises:
        UserError: no such data set, split or column, or no network.
    """
    splits = [_load_split(path, name, revision, split) for split in (train, validation)]
    return Splits(*(_rename(rows, columns, path) for rows in splits))


def _load_split(path: str, name: str | None, revision: str | None, split: str) -> Dataset:
    try:
        return load_dataset(path, name, revision=revision, split=split)
    except DatasetNotFoundError as error:
        raise UserError(f"No data set `{path}`: {error}") from error
    except ConnectionError as error:
        raise UserError(
            f"The data set `{path}` cannot be reached ({error}). Check the network, or give local "
            "files: dataset.root=FOLDER."
        ) from error
    except ValueError as error:  # an unknown split or configuration; the message lists those there are
        raise UserError(f"Data set `{path}`, split `{split}`: {error}") from error


def _rename(rows: Dataset, columns: Mapping[str, str | None], path: str) -> Dataset:
    for ours, theirs in columns.items():
        if theirs is not None and theirs not in rows.column_names:
            raise UserError(
                f"Data set `{path}` has no column `{theirs}` (dataset.hub.columns.{ours}); "
                f"it has: {', '.join(rows.column_names)}."
            )
    wanted = {theirs: ours for ours, theirs in columns.items() if theirs is not None}
    rows = rows.select_columns(list(wanted)).rename_columns(
        {theirs: ours for theirs, ours in wanted.items() if theirs != ours}
    )
    if isinstance(rows.features["image"], Image):
        # data/images.py decodes: one rule for rotation, modes and limits, whatever the source.
        rows = rows.cast_column("image", Image(decode=False))
    features = rows.features.copy()
    features.update(id=Value("string"), group=Value("string"), answers=List(Value("string")))
    return rows.map(_to_text, with_indices=True, features=features, desc="Reading answers")


def _to_text(row: dict[str, Any], index: int) -> dict[str, Any]:
    group = row.get("group")
    return {
        "id": str(row.get("id", index)),
        "group": None if group is None else str(group),
        "answers": _answers(row["answers"]),
    }


def _answers(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [item["answer"] if isinstance(item, dict) else str(item) for item in value]
    return [str(value)]
