"""Rows in Arrow: memory-mapped, so memory does not grow with the dataset.

Every source returns `Splits` of rows with the columns `id`, `group`, `image` (or `images`, if an example
has several) and those that its task reads.
"""

import logging
import os
import random
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from finetune.data.cache import PLACE, find_cache_dir, list_images, load_or_store, make_key, stamp_images
from finetune.data.reading.faults import Faults, UnusableError, reading
from finetune.errors import UserError

log = logging.getLogger(__name__)

Row = Mapping[str, object]
"""One row of a source, by column."""

Reader = Callable[..., Iterator[Row]]
"""`(faults, **arguments)` to rows, as a generator; what `faults.skipping` catches is left out. A row may
have the file and the place in it under `PLACE`, such as `train.jsonl line 7`. A `UserError` names both. Of
the arguments, `file` is what the source names for the split, `image_dir` the folder of its images (None:
that of the file); others follow from the options."""

PICTURE = {"bytes": Value("binary"), "path": Value("string")}
"""The column `image` if images are inside the rows."""
PATHS = List(Value("string"))
"""The column `images` if an example has several."""

_BATCH_ROWS, _BATCH_BYTES = 1000, 64 << 20
"""Rows and bytes at which a batch is written."""


class Built(NamedTuple):
    """The rows of one split, and the faults that were left out."""

    rows: Dataset
    skipped: list[str]


class Splits(NamedTuple):
    """The rows to train on and those to evaluate on."""

    train: Dataset
    validation: Dataset
    skipped: tuple[str, ...] = ()
    """What `on_error=skip` left out of both, with reasons."""


def text_features(
    *columns: str,
    lists: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
    image: object = Value("string"),
) -> Features:
    """Columns of a source: `id`, `group`, `image` (or lists in `images`), and those named here."""
    text, images = Value("string"), "images" if isinstance(image, List) else "image"
    head = {"id": text, "group": text, images: image}
    kinds = ((columns, text), (lists, List(text)), (numbers, Value("int32")))
    return Features(head | {name: kind for names, kind in kinds for name in names})


def build_rows(
    read: Reader,
    features: Features,
    on_error: str = "error",
    *,
    paths: tuple[str, ...],
    origin: str = "",
    **arguments: object,
) -> Built:
    """Write the rows of a reader to Arrow, once; for the same files they then come from the cache.

    Args:
        read: yields rows; gets `faults`, and the arguments by name.
        features: the columns.
        on_error: `error` or `skip`.
        paths: names of the arguments that are files or folders which the reader reads, or tuples of them;
            their content is part of the cache key. Not folders of images: the images that the rows name
            are compared one by one.
        origin: the source as a whole, for messages.
        arguments: those of the reader; they are part of the cache key.

    Returns:
        The rows, and what was left out, with reasons.

    Raises:
        UserError: names the file and the place in it; or the cache cannot be written.
    """
    named = [arguments[name] for name in paths]
    sources = [str(path) for each in named for path in (each if isinstance(each, tuple) else (each,))]
    faults = Faults(on_error == "skip", origin)
    folder = find_cache_dir() / make_key(read, sources, faults.skip, str(features), arguments)
    features = Features({**features, PLACE: Value("string")})
    make = partial(_convert, read, features, arguments)
    report = partial(_log_reading, origin if sources else "")
    rows, skipped, noted = load_or_store(folder, features, make, faults, report)
    for what, (first, count) in noted.items():
        log.info("%s: %s: %d; the first: %s", origin, what, count, first)
    return Built(rows, skipped)


def _log_reading(origin: str, reason: str) -> None:
    """Log once where rows are cached; nothing for rows made without files."""
    if origin and reason:
        log.info("%s: its cached rows are not used because %s; reading it again.", origin, reason)
    elif origin:
        log.info("Reading %s; its rows are kept in %s, which may be deleted.", origin, find_cache_dir())


def _convert(
    read: Reader, features: Features, arguments: Mapping[str, object], faults: Faults
) -> Iterator[pa.StructArray]:
    """Yield the rows in batches; a value that does not fit is a fault in the reader.

    Raises:
        UserError: any exception of the reader, with the file and the place; or no room for the ids.
    """
    kind = pa.struct(list(features.arrow_schema))
    lists = [name for name, value in features.items() if isinstance(value, List)]
    texts = {name for name, value in features.items() if value == Value("string")}
    checks = [(name, _choose_check(value)) for name, value in features.items()]

    def convert(row: Row) -> tuple[Row, int]:
        """Return the values of a row, and its bytes where it may be a large one."""
        row = {PLACE: None, **row}
        for name in lists:
            if isinstance(row[name], str | Mapping):  # Arrow would take its letters or keys
                raise UnusableError(f"`{name}` must be a list, got {str(row[name])[:80]!r}.")
        values = {name: _write_number(row[name]) if name in texts else row[name] for name in features}
        # Only Arrow knows what else it refuses, but asked for each row it needs 30 times as long.
        is_plain = all(fits(values[name]) for name, fits in checks)
        return values, 0 if is_plain else pa.array([values], type=kind).nbytes

    reader = cast(Generator[Row, None, None], read(faults, **arguments))
    batch: list[Row] = []
    size = 0
    with reading(faults.origin), suppress(StopIteration), closing(_open_ids()) as ids:
        row = next(reader, None)
        while row is not None:
            try:
                values, large = convert(row)
                if not ids.execute("INSERT OR IGNORE INTO ids VALUES (?)", [repr(values["id"])]).rowcount:
                    raise UnusableError(f"id `{values['id']}` is duplicated; ids must be unique.")
            except sqlite3.Error as error:
                raise UserError(
                    f"The ids of the rows cannot be kept in a temporary file ({error}). Make room for it, "
                    "or name a folder that can be written: SQLITE_TMPDIR=FOLDER in the environment."
                ) from error
            except Exception as error:
                # Raised inside the block of the reader, which knows the place.
                row = reader.throw(error)
            else:
                batch.append(values)
                size += large
                if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                    yield pa.array(batch, type=kind)
                    batch, size = [], 0
                row = next(reader, None)
    if batch:
        yield pa.array(batch, type=kind)


def _open_ids() -> sqlite3.Connection:
    """Return an empty table in a temporary file, of which at most 16 MiB are in memory."""
    ids = sqlite3.connect("", isolation_level=None)
    ids.executescript(
        "PRAGMA cache_size = -16384; PRAGMA journal_mode = OFF;"
        "CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID; BEGIN"
    )
    return ids


def _choose_check(kind: object) -> Callable[[object], bool]:
    """Return whether a value of a column surely fits and is small; False is not yet a fault."""
    if kind == Value("string"):
        return _is_short_text
    if kind == List(Value("string")):
        return _are_short_texts
    is_integer = kind in (Value("int32"), Value("int64"))
    return _is_small_integer if is_integer else lambda value: value is None


def _is_short_text(value: object) -> bool:
    # Half of a surrogate pair, which Arrow refuses, is not printable.
    is_text = type(value) is str and len(value) < 4096 and (value.isascii() or value.isprintable())
    return is_text or value is None


def _are_short_texts(value: object) -> bool:
    return type(value) is list and len(value) <= 16 and all(map(_is_short_text, value))


def _is_small_integer(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value < 1 << 31)


def _write_number(value: object) -> object:
    """Return a number as text, anything else as it is."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def follow_links(splits: Splits) -> Splits:
    """Resolve links in the paths of images of a custom dataset; the readers here resolve them already."""

    def follow(rows: Dataset) -> Dataset:
        text, several = Value("string"), List(Value("string"))
        for name, kind in (("image", text), ("images", several)):
            if rows.features.get(name) == kind and any(
                os.path.realpath(path) != path for path in list_images(rows)
            ):
                # The state names the rows anew where a link leads elsewhere than before.
                state = stamp_images(list_images(rows))
                rows = rows.map(
                    _follow_row, fn_kwargs={"name": name, "state": state}, desc="Following links"
                )
        return rows

    return splits._replace(train=follow(splits.train), validation=follow(splits.validation))


def _follow_row(row: Mapping[str, str | list[str] | None], name: str, state: str) -> Row:
    value = row[name]
    if isinstance(value, list):
        return {name: [os.path.realpath(path) for path in value]}
    return {name: value and os.path.realpath(value)}


def hold_out(rows: Dataset, fraction: float, seed: int = 0) -> Splits:
    """Split rows so that those sharing an image are in the same split.

    Args:
        rows: with a column `image` or `images`. Images inside the rows count as different.
        fraction: share of the images that is held out; at least one image, and not all.
        seed: of the random choice.

    Raises:
        UserError: fewer than two images.
    """
    column = "image" if "image" in rows.column_names else "images"
    if "bytes" in str(rows.features[column]):
        return hold_out_rows(rows, fraction, seed)
    texts = rows.select_columns(column).with_format("arrow")[:][column]
    if rows.features[column] != Value("string"):  # several images: as Python writes a list of them
        texts = pa.chunked_array([[str(paths) for paths in rows[column]]])
    encoded = texts.combine_chunks().fill_null("None").dictionary_encode()
    return _draw(rows, encoded.indices.to_numpy(), encoded.dictionary.to_pylist(), fraction, seed)


def hold_out_rows(rows: Dataset, fraction: float, seed: int = 0) -> Splits:
    """Split rows one by one; otherwise as `hold_out`."""
    return _draw(rows, np.arange(len(rows)), [str(index) for index in range(len(rows))], fraction, seed)


def _draw(rows: Dataset, codes: np.ndarray, names: list[str], fraction: float, seed: int) -> Splits:
    """Hold out the rows whose code is the place of a drawn name."""
    if len(names) < 2:
        raise UserError(
            "dataset.validation_fraction needs at least two different images; pass dataset.validation=FILE."
        )
    order = sorted(range(len(names)), key=names.__getitem__)
    random.Random(seed).shuffle(order)
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    is_inside = np.isin(codes, order[:count])
    return Splits(rows.select(np.flatnonzero(~is_inside)), rows.select(np.flatnonzero(is_inside)))
