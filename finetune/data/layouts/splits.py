"""The splits of an export by the names of its files and folders.

Every module here has `find_splits(path)`, which says whether a file or folder has its format. They read the
beginning of files at most and import neither torch nor `datasets`.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetune.errors import UserError

SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Split -> its names in exports, as whole words; digits after them do not matter (`train2017`)."""

_SPLIT_OF = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
_MOST_FILES = 50
"""Files of a folder; of more, which have one image each or are shards, two are looked at."""


def name_split(name: str) -> str | None:
    """Return the split that a name contains as a word: `_annotations.valid`, `instances_train2017`."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((_SPLIT_OF[word] for word in reversed(words) if word in _SPLIT_OF), None)


def split_folders(folder: Path) -> Iterator[Path]:
    """Yield the subfolders that are named as a split."""
    for path in list_folder(folder):
        if path.name.lower() in _SPLIT_OF and path.is_dir():
            yield path


def list_folder(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; empty if it cannot be read. Hidden files are left out."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def find_files(folder: Path, *endings: str, below: tuple[str, ...] = ()) -> list[Path]:
    """Return the files with an ending in a folder, in its split folders, and in named folders of each.

    Args:
        folder: the export.
        endings: such as `.json`, lower case.
        below: names of folders that are also searched, such as `annotations`.
    """
    tops = [folder, *split_folders(folder)]
    places = [*tops, *(top / name for top in tops for name in below)]
    found: list[Path] = []
    for place in places:
        files = [file for file in list_folder(place) if file.suffix.lower() in endings and file.is_file()]
        found += files if len(files) <= _MOST_FILES else files[:2]
    return found


def group_files(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Return split -> file; the only file of an export without names of splits is `train`.

    Args:
        files: files of one format.
        folder: the export; only names below it count.

    Raises:
        UserError: two files have the same split.
    """
    splits: dict[str, str] = {}
    for path in files:
        names = (path.stem, *reversed(path.relative_to(folder).parts[:-1]))
        split = next(filter(None, map(name_split, names)), None) or "train"
        if split in splits:
            raise UserError(
                f"{folder}: both {Path(splits[split]).relative_to(folder)} and {path.relative_to(folder)} "
                f"may be its {split} data. Name the files: dataset.train=FILE dataset.validation=FILE."
            )
        splits[split] = str(path)
    return splits


def choose_split(splits: dict[str, str], option: str) -> str | None:
    """Return the file of a split; of an export with one file, that one.

    Args:
        splits: from `find_splits`.
        option: `train` or `validation`.
    """
    return splits.get(option) or (next(iter(splits.values())) if len(splits) == 1 else None)
