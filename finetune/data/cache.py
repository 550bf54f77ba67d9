"""The cache of rows: an Arrow file for each set of sources, and notes on its sources next to it.

Rows are read once. They come from the cache as long as the code, the options, every source file and every
image that they name are unchanged; otherwise they are read again. A damaged file of the cache is replaced.
"""

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from inspect import getsourcefile
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from filelock import FileLock

from finetune.data.images import IMAGE_SUFFIXES
from finetune.data.reading.faults import Faults
from finetune.errors import UserError

_ROWS, _NOTES = "rows.arrow", "rows.json"
PLACE = "_place"
"""Key of the file and the place in it that a row was read from; a column of the cached file only."""

_CHUNK = 1 << 20
_WHOLE = 64 * _CHUNK
"""Bytes up to which a file is compared by its whole content; larger ones (shards of images) are compared by
size, times, beginning and end."""


class Cached(NamedTuple):
    """A set of rows, and what their reader says about them."""

    rows: Dataset
    skipped: list[str]
    """The faults left out of them."""
    noted: Mapping[str, tuple[str, int]]
    """What was changed or ignored -> the first place, and how often."""


def find_cache_dir() -> Path:
    """Return the folder of all cached rows; deleting it is safe."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "finetune"


def make_key(read: Callable[..., object], paths: Iterable[str], *options: object) -> str:
    """Return the cache key of the rows that a reader makes from some files.

    Args:
        read: the reader; its code and that of this package are part of the key.
        paths: files and folders that it reads, without images.
        options: everything else that determines the rows.
    """
    sources = sorted({Path(path).absolute() for path in paths})
    # Images are searched in the folder of the path, even if the file itself is a link to elsewhere.
    folders = {str(folder): os.path.realpath(folder) for folder in {path.parent for path in sources}}
    digests = [(str(path), *_digest_path(path)) for path in sources]
    # Options may also have relative paths. Rows made without files are the same everywhere.
    place = str(Path.cwd()) if sources else ""
    code = (_digest_code(getsourcefile(read) or ""), read.__module__, read.__qualname__)
    return blake2b(
        repr((code, place, sorted(folders.items()), digests, options)).encode(), digest_size=16
    ).hexdigest()


def load_or_store(
    folder: Path,
    features: Features,
    make: Callable[[Faults], Iterable[pa.StructArray]],
    faults: Faults,
    report: Callable[[str], None] = lambda _: None,
) -> Cached:
    """Return the rows in a folder of the cache; where they cannot be used, make and store them first.

    Only one process of this machine at a time writes a set of rows.

    Args:
        folder: one set of rows.
        features: their columns.
        make: returns arrays of rows, which are iterated while they are written.
        faults: passed to `make`, which adds what it leaves out.
        report: called before rows are made, with the reason why cached ones are not used, empty if there
            are none.

    Returns:
        The rows, the faults left out of them, and what was noted.

    Raises:
        UserError: the folder cannot be written, or the data change meanwhile; or what `make` raises.
    """
    cached = _load(folder)
    if not isinstance(cached, str):
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            cached = _load(folder)  # another process may have written them meanwhile
            if isinstance(cached, str):
                report(cached)
                _store(folder, features, make(faults), faults)
                cached = _load(folder)
    except OSError as error:
        raise UserError(
            f"The rows cannot be cached in {find_cache_dir()} ({error.strerror or error}). Make room "
            "there, or name a folder that can be written: HF_DATASETS_CACHE=FOLDER in the environment."
        ) from error
    if isinstance(cached, str):
        raise UserError(f"{faults.origin} changes while it is read ({cached}). Start again.")
    return cached


def _load(folder: Path) -> Cached | str:
    """Return the rows and the faults left out of them, or the reason why they cannot be used."""
    try:
        notes = json.loads((folder / _NOTES).read_text(encoding="utf-8"))
        if _digest_path(folder / _ROWS) != notes["digest"]:
            return "they are damaged"
        rows = Dataset.from_file(str(folder / _ROWS))
        if stamp_images([*list_images(rows), *notes["refused"]]) != notes["images"]:
            return "images changed"
        # Not a column of the rows: no task, template or comparison of rows is to see it.
        rows = rows.remove_columns([name for name in rows.column_names if name == PLACE])
        noted = {str(what): (str(first), int(count)) for what, (first, count) in notes["noted"].items()}
        return Cached(rows, [str(fault) for fault in notes["skipped"]], noted)
    except FileNotFoundError:
        return "they are incomplete" if (folder / _ROWS).exists() else ""
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return "they are damaged"


def find_places(rows: Dataset, row_ids: Iterable[str]) -> dict[str, str]:
    """Return the file and the place in it that rows were read from, of those whose reader says it.

    Args:
        rows: of a source or a mixture, or a part of them.
        row_ids: `id` of rows; under `task.classes=one` with the class.
    """
    # The row itself, or the one that it was made from.
    origins = {name: (name, name.rpartition("/")[0]) for name in row_ids}
    wanted = pa.array(sorted({name for names in origins.values() for name in names}), type=pa.string())
    found: dict[str, list[str]] = {}
    # What `datasets` derives from cached rows is next to them.
    for file in {Path(entry["filename"]).with_name(_ROWS) for entry in rows.cache_files}:
        if not file.is_file():
            continue
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_stream(source).read_all()
            if PLACE in table.column_names:
                part = table.select(["id", PLACE]).filter(pc.is_in(table["id"], value_set=wanted))
                for name, place in zip(part["id"].to_pylist(), part[PLACE].to_pylist(), strict=True):
                    if place is not None:
                        found.setdefault(name, []).append(place)
    places = {name: found.get(names[0]) or found.get(names[1]) or [] for name, names in origins.items()}
    # Parts of a mixture may have the same ids.
    return {name: one[0] for name, one in places.items() if len(one) == 1}


def _store(folder: Path, features: Features, rows: Iterable[pa.StructArray], faults: Faults) -> None:
    """Write rows to a folder of the cache; the notes last, to mark the rows as complete."""
    partial, final = folder / f"{_ROWS}.partial", folder / _ROWS
    try:
        (folder / _NOTES).unlink(missing_ok=True)
        with partial.open("wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
            for array in rows:
                writer.write_batch(pa.RecordBatch.from_struct_array(array))
        partial.replace(final)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    notes = {
        "digest": _digest_path(final),
        "images": stamp_images([*list_images(Dataset.from_file(str(final))), *faults.images]),
        "refused": faults.images,
        "skipped": faults.found,
        "noted": faults.noted,
    }
    part = folder / f"{_NOTES}.partial"
    part.write_text(json.dumps(notes), encoding="utf-8")
    part.replace(folder / _NOTES)


def list_images(rows: Dataset) -> list[str]:
    """Return the paths of the images that rows name, without those inside the rows."""
    table: pa.Table = rows.data.table
    paths: list[str] = []
    for name in {"image", "images"}.intersection(table.column_names):
        column = table.column(name)
        if pa.types.is_struct(column.type):
            outside = pc.is_null(pc.struct_field(column, "bytes"))
            column = pc.struct_field(column, "path").filter(outside)
        elif pa.types.is_list(column.type):
            column = pc.list_flatten(column)
        paths += pc.unique(column.drop_null()).to_pylist()
    return paths


def stamp_images(paths: Iterable[str]) -> str:
    """Return a digest of the state of images: size, time, and target of a link."""
    names = sorted(set(paths))
    # As text: a `Path` for each of 200,000 images would cost seconds.
    folders = sorted({name.rpartition(os.sep)[0] for name in names})
    stamp = blake2b("\n".join(map(os.path.realpath, folders)).encode(), digest_size=16)
    for name in names:
        try:
            status = os.lstat(name)
            link = stat.S_ISLNK(status.st_mode)
            mark = f"{name} {os.path.realpath(name) if link else ''} {status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):
            mark = f"{name} -"
        stamp.update(mark.encode("utf-8", "surrogateescape"))
    return stamp.hexdigest()


def _digest_path(path: Path) -> list[str]:
    """Return the digest of a file; for a folder, its names and the digests of files other than images."""
    if not path.is_dir():
        return [_digest_file(path)]
    digests = [os.path.realpath(path)]
    for top, inside, files in os.walk(path):
        folder = Path(top)
        inside.sort()
        digests += [os.path.realpath(folder / name) for name in inside if (folder / name).is_symlink()]
        for name in sorted(files):
            image = f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES
            digests.append(f"{top} {name} {'' if image else _digest_file(folder / name)}")
    return digests


def _digest_file(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # never opened: a pipe would wait forever
            return f"mode {status.st_mode}"
        digest = blake2b(digest_size=16)
        with path.open("rb") as file:
            if status.st_size > _WHOLE:
                digest.update(f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}".encode())
                digest.update(file.read(_CHUNK))
                file.seek(-_CHUNK, os.SEEK_END)
            while piece := file.read(_CHUNK):
                digest.update(piece)
        return digest.hexdigest()
    except OSError as error:  # the reader reports it
        return f"error {error.errno}"


@cache
def _digest_code(reader: str) -> str:
    """Return a digest of the code that makes rows, so that a new version reads them again."""
    package = Path(__file__).parent
    return digest_files({*package.rglob("*.py"), *(package.parent / "codecs").glob("*.py"), Path(reader)})


def digest_files(files: Iterable[Path]) -> str:
    """Return a digest of the content of files, in the order of their paths."""
    return blake2b("".join(map(_digest_file, sorted(files))).encode(), digest_size=16).hexdigest()
