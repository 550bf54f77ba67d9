"""A digest of a split: equal for the same rows and images in any folder and on any machine.

A row counts with its id, its texts, its objects and the content of its images, not with their names. An
image counts by the bytes of its file. A small PNG inside the rows counts by its pixels: the shipped data
are encoded when they are read, and two versions of an encoder write different bytes. Of a split with more
than `_WHOLE` bytes of images only their sizes count, because reading them would take minutes; the result
says so. Training draws rows by their place, so that the order of a training split counts; a score is the
same in any order, and so is the digest of a split that is scored.
"""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, file_digest, sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from PIL import Image

from finetune.data.examples.dataset import PICTURES
from finetune.data.examples.decoding import count_cores
from finetune.data.examples.identity import digest_code
from finetune.data.examples.survey import remember
from finetune.progress import track

_WHOLE = 8 << 30
_SMALL = 64 << 10
_PNG = b"\x89PNG"
_CHUNK = 100

_DIGESTS = Features({"digest": Value("binary"), "images": List(Value("string"))})
"""Of each row; and its image files, so that the cache notices other ones."""


def fingerprint(rows: Dataset, split: str, *, ordered: bool) -> dict[str, Any]:
    """Return the number of rows of a split, and their digest; the cache remembers those of the rows.

    Args:
        rows: as they are trained on or scored.
        split: its name, for the bar.
        ordered: whether their order counts.

    Returns:
        `rows`; `digest`, such as `sha256:9f86...`; and `images`: `content`, or `sizes` for a split with so
        many bytes of images that only their sizes were read.

    Raises:
        UserError: the cache cannot be written.
    """
    is_whole = _count_bytes(rows) <= _WHOLE
    key = blake2b(f"{rows._fingerprint} {is_whole} {digest_code()}".encode(), digest_size=16).hexdigest()
    table = remember(f"fingerprint-{key}", _DIGESTS, lambda: _digest_rows(rows, is_whole, split))
    digests = table["digest"].to_pylist()
    total = sha256(b"".join(digests if ordered else sorted(digests))).hexdigest()
    return {"rows": len(rows), "digest": f"sha256:{total}", "images": "content" if is_whole else "sizes"}


def digest_texts(rows: Dataset) -> str:
    """Return a digest of rows in their order, without their images: a second for a million rows."""
    digest = sha256()
    for columns in rows.select_columns(sorted({*rows.column_names} - {*PICTURES})).iter(batch_size=1000):
        digest.update(repr(columns).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _count_bytes(rows: Dataset) -> int:
    """Return the bytes of the images of the rows, without reading them."""
    inside, paths = 0, set[str]()
    for name in set(PICTURES).intersection(rows.column_names):
        column = rows.data.table.column(name)
        chosen = None if rows._indices is None else rows._indices.column(0)
        if pa.types.is_list(column.type):
            listed = rows.select_columns(name).with_format("arrow")[:]
            column, chosen = pc.list_flatten(listed[name]), None
        if pa.types.is_struct(column.type):
            # Not the bytes themselves are taken: they may be larger than the memory.
            lengths = pc.binary_length(pc.struct_field(column, "bytes"))
            inside += pc.sum(_take(lengths, chosen)).as_py() or 0
            column = pc.struct_field(column, "path").filter(pc.is_null(lengths))
            chosen = None  # paths and bytes are hardly ever mixed
        paths.update(_take(column, chosen).drop_null().to_pylist())
    return inside + sum(map(_size_of, paths))


def _take(values: pa.ChunkedArray, chosen: pa.ChunkedArray | None) -> pa.ChunkedArray:
    return values if chosen is None else values.take(chosen)


def _size_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0  # reading the image reports it


def _digest_rows(rows: Dataset, is_whole: bool, split: str) -> Iterator[pa.StructArray]:
    """Yield the columns of `_DIGESTS` in the order of the rows; each file is read once."""
    known: dict[str, str] = {}
    chunks = rows.iter(batch_size=_CHUNK)
    total = -(-len(rows) // _CHUNK)
    with ThreadPoolExecutor(count_cores()) as pool:
        for columns in track(chunks, f"digests of {split} rows", "00 rows", total=total, leave=False):
            names = [name for name in PICTURES if name in columns]
            pictures: list[list[Any]] = [[] for _ in columns["id"]]
            for name in names:
                for place, value in enumerate(columns[name]):
                    pictures[place] += value if isinstance(value, list) else [value]
            paths = {path for each in pictures for path in map(_path_of, each) if path is not None}
            new = sorted(paths - known.keys())
            known.update(zip(new, pool.map(lambda path: _digest_file(path, is_whole), new), strict=True))
            contents = pool.map(
                lambda each: [_digest_image(one, known, is_whole) for one in each], pictures
            )
            texts = {name: values for name, values in columns.items() if name not in names}
            found = []
            for each, content, values in zip(
                pictures, contents, zip(*texts.values(), strict=True), strict=True
            ):
                row = {name: value for name, value in zip(texts, values, strict=True) if value is not None}
                text = json.dumps([row, content], sort_keys=True, default=_write)
                digest = blake2b(text.encode(), digest_size=16).digest()
                found.append({"digest": digest, "images": [path for path in map(_path_of, each) if path]})
            yield pa.array(found, type=pa.struct(list(_DIGESTS.arrow_schema)))


def _path_of(source: object) -> str | None:
    """Return the path of an image file; None for an image inside its row."""
    if isinstance(source, Mapping):
        source = source.get("path") if source.get("bytes") is None else None
    return None if source is None else str(source)


def _digest_image(source: Any, known: Mapping[str, str], is_whole: bool) -> str | None:
    path = _path_of(source)
    if path is not None:
        return known[path]
    data = source and source.get("bytes")
    if data is None:
        return None
    if not is_whole:
        return str(len(data))
    if len(data) <= _SMALL and data.startswith(_PNG):
        try:
            with Image.open(BytesIO(data)) as image:
                return sha256(image.tobytes() + repr((image.size, image.mode)).encode()).hexdigest()
        except (OSError, ValueError, SyntaxError):
            pass  # decoding the example reports it
    return sha256(data).hexdigest()


def _digest_file(path: str, is_whole: bool) -> str:
    if not is_whole:
        return str(_size_of(path))
    try:
        with Path(path).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return "unreadable"  # decoding the example reports it


def _write(value: object) -> str:
    """Return a value that JSON does not have as text."""
    return sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
