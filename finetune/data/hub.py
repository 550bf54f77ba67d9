"""A dataset in parquet, on the Hub or in a folder, by the names of its columns."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict, Image, List, config, load_dataset, load_from_disk
from huggingface_hub import constants

from finetune.data.hub_rows import Shaper, holds_images
from finetune.data.hub_turns import COLUMNS, expand_turns, find_turns
from finetune.data.layouts.hub import SAVED_DATASET, SAVED_DATASETS
from finetune.data.published import Hub, HubSource
from finetune.data.release import select_split, split_names
from finetune.data.rows import Splits, hold_out_rows
from finetune.errors import UserError
from finetune.hub import explain_dataset

_NETWORK = {"httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "aiohttp", "socket"}
"""Packages whose errors are network errors, of files that are not on the Hub."""


def load_hub(source: HubSource) -> Splits:
    """Load two splits and rename their columns.

    Raises:
        UserError: no such dataset, split or column, no access to it, no network; or a row that cannot be
            used.
    """
    if source.path is None:
        raise UserError("Which dataset? dataset.path=HUB_ID_OR_FOLDER is missing.")
    fraction = source.validation_fraction if isinstance(source, Hub) else None
    if fraction is not None and source.train is not None:
        # Before a conversation becomes several rows, which have the same image.
        parts = hold_out_rows(_load_split(source, source.path, source.train), fraction)
        loaded = [(parts.train, source.train), (parts.validation, source.train)]
    else:
        splits = [split for split in (source.train, source.validation) if split is not None]
        loaded = [(_load_split(source, source.path, split), split) for split in splits]
    shaped = [_shape(rows, source, source.path, split) for rows, split in loaded]
    return Splits(shaped[0].select([]) if source.train is None else shaped[0], shaped[-1])


def _load_split(source: HubSource, path: str, split: str) -> Dataset:
    if any((Path(path) / saved).is_file() for saved in (SAVED_DATASET, SAVED_DATASETS)):
        return _load_saved(path, split)
    files = dict(source.data_files) or None
    try:
        return load_dataset(path, source.name, revision=source.revision, split=split, data_files=files)
    except Exception as error:  # foreign files and the network raise anything
        raise UserError(_explain(path, split, error, source.revision)) from error


def _load_saved(path: str, split: str) -> Dataset:
    """Load a split of a folder that `save_to_disk` wrote; a single dataset is `train`."""
    try:
        saved = load_from_disk(path)
    except Exception as error:  # foreign files raise anything
        raise UserError(_explain(path, split, error)) from error
    known = dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
    unknown = [name for name in split_names(split) if name not in known]
    if unknown:
        raise UserError(
            f"The folder {path}, written by `save_to_disk`, has no split `{unknown[0]}`; it has: "
            f"{', '.join(known)}. Name it, or hold out a share of train: dataset.validation_fraction=0.1."
        )
    return select_split(known, split)


def _explain(path: str, split: str, error: Exception, revision: str | None = None) -> str:
    """Return the meaning of an error of `load_dataset` in one line, and a remedy."""
    cause = error.__cause__ or error
    text = " ".join(str(cause).split())[:400]
    reason = explain_dataset(error, path, revision)
    if reason is not None:
        return reason
    if isinstance(error, RuntimeError) and "scripts are no longer supported" in text:
        return (
            f"The dataset `{path}` has a loading script, which is never run ({text}). Use a copy in "
            "parquet; the Hub may have made one: dataset.revision=refs/convert/parquet."
        )
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    if isinstance(error, ConnectionError | TimeoutError) or modules & _NETWORK:
        return f"The dataset `{path}` cannot be reached ({text}). Check the network, or give local files."
    # For an unknown split or configuration, the message lists the known ones.
    if isinstance(error, FileNotFoundError | ValueError) and not isinstance(error, pa.ArrowException):
        named = " Name it: dataset.train=NAME, dataset.validation=NAME." if "split" in text else ""
        return f"Dataset `{path}`, split `{split}`: {text}{named}"
    return (
        f"Dataset `{path}`, split `{split}`: its files cannot be read ({type(cause).__name__}: {text}). "
        "Are they whole, and do all have the same columns?"
    )


def _find_columns(rows: Dataset, source: HubSource, where: str) -> tuple[Dataset, dict[str, str]]:
    """Return the rows, one for each answer of a conversation, and our name -> theirs of their columns."""
    wanted = {ours: theirs for ours, theirs in source.columns.items() if theirs is not None}
    turns = None if wanted or source.objects.boxes else find_turns(rows.features)
    if turns is not None:
        return expand_turns(rows, turns, where), dict(COLUMNS)
    for ours in ("image", "images"):
        if ours in rows.column_names and not {"image", "images"} & wanted.keys():
            wanted[ours] = ours
    return rows, wanted


def _shape(rows: Dataset, source: HubSource, path: str, split: str) -> Dataset:
    """Rename the named columns, drop the others, and convert ids, groups, lists and boxes."""
    where, objects = f"Dataset `{path}`, split `{split}`", source.objects
    rows, wanted = _find_columns(rows, source, where)
    places = {"objects.boxes": objects.boxes, "objects.labels": objects.labels}
    boxes = {key: place for key, place in places.items() if place is not None}
    named = {f"columns.{ours}": theirs for ours, theirs in wanted.items()}
    for ours, theirs in {**named, **boxes}.items():
        known, column = rows.column_names, theirs.split(".")[0] if ours in boxes else theirs
        if column not in known:
            raise UserError(
                f"Dataset `{path}` has no column `{theirs}` ({ours}); it has: {', '.join(known)}."
            )
    if boxes and "image" not in wanted:
        raise UserError(f"Dataset `{path}`: boxes need the column `image`; name it: columns.image=NAME.")
    if isinstance(rows.features.get(wanted.get("image", "")), Image):
        # data/images.py decodes: one rule for rotation, modes and limits, whatever the source.
        rows = rows.cast_column(wanted["image"], Image(decode=False))
    if "images" in wanted:
        kind = rows.features[wanted["images"]]
        if not isinstance(kind, List) or not holds_images(kind.feature):
            raise UserError(f"{where}: column `{wanted['images']}`: expected lists of images, got {kind}.")
        rows = rows.cast_column(wanted["images"], List(Image(decode=False)))
    shaper = Shaper(wanted, objects, rows.features, where, _find_folders(path))
    try:
        shaped = rows.map(
            shaper,
            with_indices=True,
            features=shaper.features,
            remove_columns=rows.column_names,
            desc="Reading rows",
        )
    except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
        raise UserError(
            f"{where}: its values do not fit ({' '.join(str(error).split())[:300]})."
        ) from error
    if "id" in wanted:
        repeated = [value for value, count in Counter(shaped["id"][:]).items() if count > 1]
        if repeated:
            raise UserError(
                f"{where}: column `{wanted['id']}`: id `{repeated[0]}` is duplicated; ids must be unique."
            )
    return shaped


def _find_folders(path: str) -> tuple[str, ...]:
    """Return the folders of the images that a dataset names by path."""
    if Path(path).is_dir():
        return (str(Path(path).resolve()),)
    downloaded = Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}"
    return tuple(str(Path(folder).resolve()) for folder in (downloaded, config.DOWNLOADED_DATASETS_PATH))
