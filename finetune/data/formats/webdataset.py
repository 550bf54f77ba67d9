"""WebDataset: tar files (shards) in which an image and its text share a name."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datasets import Features

from finetune.data.cache import PLACE
from finetune.data.formats import jsonl
from finetune.data.formats.jsonl import read_texts
from finetune.data.formats.splits import expand_files, find_file, load_sources
from finetune.data.images import IMAGE_SUFFIXES, Picture
from finetune.data.options import Webdataset
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.tables import parse_object
from finetune.data.rows import PICTURE, Row, Splits, text_features
from finetune.errors import UserError

FEATURES = Features({**jsonl.FEATURES, "image": PICTURE})
FEATURES_OF_CAPTIONS = text_features(lists=("captions",), image=PICTURE)

_BLOCK = 512
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)

Sample = tuple[str, list[tuple[str, bytes]]]
"""A key, and names and contents of its members."""


def load_webdataset(options: Webdataset) -> Splits:
    """Read the shards of both splits, or hold out a share of those of `train`.

    A file is one shard, a pattern such as `shards/*.tar`, or numbered shards, `shards/{000..009}.tar`.
    Samples have an image, and `KEY.json` with `prefix` and `suffix`, or `KEY.txt` with a caption; the
    first sample determines which. The key is the path up to the first dot of the file name. Images are
    copied into the rows.
    """
    files = [(file or find_file(None), option) for option, file in options.files()]
    named = dict(files)  # the same file may be in both places: a message names the last option
    shards = [expand_files(file, named[file]) for file, _ in files]
    with reading(shards[0][0]):
        pairs = _has_pairs(shards[0][0])
    sources = [
        [{"file": file, "shards": names, "pairs": pairs}]
        for (file, _), names in zip(files, shards, strict=True)
    ]
    features = FEATURES if pairs else FEATURES_OF_CAPTIONS
    return load_sources(read_webdataset, features, options, *sources, paths=("shards",))


def _has_pairs(shard: str) -> bool:
    """Return whether the first sample with a JSON object has a prefix and a suffix there."""
    for _, members in _iterate_samples(Faults(skip=True), shard):
        for name, content in members:
            with Faults(skip=True).skipping():
                if name.endswith(".json"):
                    return {"prefix", "suffix"} <= parse_object(content, name).keys()
    return False


def read_webdataset(faults: Faults, file: str, shards: tuple[str, ...], pairs: bool) -> Iterator[Row]:
    """Yield a row for every sample; without an `id` in its JSON, the id is `<shard>/<key>`.

    Args:
        faults: what to do with a sample or a shard that cannot be used.
        file: the pattern of the shards.
        shards: the tar files.
        pairs: samples have a prefix and suffixes; otherwise captions.
    """
    for shard in shards:
        for key, members in _iterate_samples(faults, shard):
            with faults.skipping():
                yield _convert(key, members, pairs, shard)


def _convert(key: str, members: list[tuple[str, bytes]], pairs: bool, shard: str) -> Row:
    where = f"{shard}: sample `{key}`"
    name, content = _only(members, IMAGE_SUFFIXES, "an image", where)
    ending = ".json" if pairs else ".txt"
    _, text = _only(members, {ending}, f"a {ending}", where)
    image = {"bytes": content, "path": name}
    height, width = Picture(image, where).size()
    row_id = f"{Path(shard).stem}/{key}"
    if pairs:
        texts = read_texts(parse_object(text, where), row_id)
        return {**texts, "image": image, "width": width, "height": height, PLACE: where}
    try:
        caption = text.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: its text is not UTF-8 ({error}).") from error
    if not caption:
        raise UserError(f"{where}: its text is empty.")
    return {"id": row_id, "group": None, "image": image, "captions": [caption], PLACE: where}


def _only(
    members: list[tuple[str, bytes]], endings: set[str] | frozenset[str], kind: str, where: str
) -> tuple[str, bytes]:
    matches = [member for member in members if PurePosixPath(member[0]).suffix.lower() in endings]
    if len(matches) != 1:
        names = ", ".join(name for name, _ in members)
        raise UserError(
            f"{where} has {len(matches)} members that are {kind}, expected one; it has: {names}. Members "
            "of one sample share the name before the first dot and must be adjacent."
        )
    return matches[0]


def _iterate_samples(faults: Faults, shard: str) -> Iterator[Sample]:
    """Yield the samples in order; a shard that is cut short is a fault after its last whole member."""
    key: str | None = None
    members: list[tuple[str, bytes]] = []
    problem, place = None, ""
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.isdir():
                    continue
                stem = PurePosixPath(member.name)
                name = str(stem.with_name(stem.name.split(".")[0] or stem.name))
                if name != key and members:
                    yield key or "", members
                    members = []
                key = name
                stream = tar.extractfile(member) if member.isfile() else None  # a link has no content
                members.append((member.name, stream.read() if stream else b""))
                place = f"at byte {tar.offset}, after `{member.name}`"
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
                problem = "no end mark"
    except _DAMAGE as error:
        problem = str(error).partition("\n")[0]
    if members:
        yield key or "", members
    if problem is not None:
        with faults.skipping():
            what = f"cut short {place}" if place else "not a tar file, or cut short at its beginning"
            raise UserError(f"{shard}: {what} ({problem}). Copy or pack it again.")
