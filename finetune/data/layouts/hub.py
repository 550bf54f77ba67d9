"""Folders that `datasets` reads: output of `save_to_disk`, and parquet files with images inside."""

import json
import re
from pathlib import Path

from finetune.data.layouts.splits import list_folder, name_split

SAVED_DATASETS = "dataset_dict.json"
"""Written by `DatasetDict.save_to_disk`."""
SAVED_DATASET = "state.json"
"""Written by `Dataset.save_to_disk`."""


def find_splits(path: Path) -> dict[str, str]:
    """Return split -> its name in the dataset (`dataset.path=FOLDER dataset.train=NAME`)."""
    if (path / SAVED_DATASETS).is_file():
        return _by_split(_read_names(path / SAVED_DATASETS))
    if (path / SAVED_DATASET).is_file():
        return {"train": "train"}
    files = [file for folder in (path, path / "data") for file in list_folder(folder)]
    return _by_split(list(dict.fromkeys(filter(None, map(name_shards, files)))))


def name_shards(file: Path) -> str | None:
    """Return the name that shards share, such as `train` of `train-00000-of-00002.parquet`; or None."""
    shard = re.fullmatch(r"(.+)-\d+-of-\d+", file.stem)
    return shard[1] if shard and file.suffix == ".parquet" else None


def _read_names(file: Path) -> list[str]:
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _by_split(names: list[str]) -> dict[str, str]:
    if len(names) == 1:
        return {"train": names[0]}
    splits: dict[str, str] = {}
    for name in names:
        splits.setdefault(name_split(name) or name, name)
    return splits
