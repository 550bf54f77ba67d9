"""Features or pixels of images on disk: shards of records of one size, shared by any number of processes.

    KIND/KEY/about.json     what the records depend on, for the reader of the folder
    KIND/KEY/NAME.records   records, one after the other
    KIND/KEY/NAME.index     an entry of 32 bytes for each: key, checksums, size of the image

A process appends to a shard of its own: first the record, then its entry, so that whoever reads the entry
finds the record. No lock is needed; at worst two processes store the same image. A record that does not
have its checksum is struck out of the index and computed again. Checksums begin with the folder's name, so
that a shard that was copied from another folder is not read.
"""

import errno
import json
import logging
import math
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<16sIIII")
"""Key, checksum of the record, width and height of the image, checksum of the entry."""


class Stored(NamedTuple):
    """What is stored of an image."""

    values: Tensor
    """Of the store's shape."""
    size: tuple[int, int]
    """Width and height of the image as it was decoded, pixels."""


class _Entry(NamedTuple):
    key: bytes
    check: int
    """Checksum of the record."""
    width: int
    height: int
    own_check: int


def make_key(content: bytes, *variant: object) -> str:
    """Return the key of an image.

    Args:
        content: of its file.
        variant: how it is decoded and resized, where images differ in it.
    """
    person = blake2b(repr(variant).encode(), digest_size=16).digest()
    return blake2b(content, digest_size=16, person=person).hexdigest()


class ImageStore:
    """Reads and appends what was computed from images; picklable, and usable after a fork.

    Args:
        folder: `KIND/KEY`, of all records with the same dependencies; made with the first record.
        about: these dependencies.
        shape: of a record: tokens and width of features, or (3, height, width) of pixels.
        dtype: of its numbers.
        spared: bytes of the disk that stay free.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, object],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        spared: int = 0,
    ) -> None:
        self.folder, self.about, self.shape, self.dtype, self.spared = folder, about, shape, dtype, spared
        self.kind = folder.parent.name
        self.record_bytes = math.prod(shape) * dtype.itemsize
        self._places: dict[str, tuple[str, int]] = {}
        self._seen: dict[str, int] = {}
        self._shard: tuple[int, str] | None = None
        self._start = zlib.crc32(folder.name.encode())
        self._is_full = False
        self._reported: set[str] = set()

    def __len__(self) -> int:
        self._refresh()
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def read(self, key: str) -> Stored | None:
        """Return what is stored of an image; None if it is not there or damaged."""
        entry = self._find(key)
        if entry is None:
            return None
        shard, row = self._places[key]
        try:
            # Not mapped: a file that is cut short meanwhile would end the process.
            with (self.folder / f"{shard}.records").open("rb") as file:
                file.seek(row * self.record_bytes)
                record = bytearray(file.read(self.record_bytes))
            if len(record) != self.record_bytes or self._sum(record) != entry.check:
                raise ValueError("damaged")
        except (OSError, ValueError):
            self._strike_out(*self._places.pop(key))
            return None
        return Stored(
            torch.frombuffer(record, dtype=self.dtype).view(self.shape), (entry.width, entry.height)
        )

    def write(self, key: str, values: Tensor, size: tuple[int, int]) -> None:
        """Append what was computed from an image, unless it is there; without room nothing is kept.

        Args:
            key: from `make_key`.
            values: of the store's shape, on any device.
            size: width and height of the image, pixels.
        """
        if self._is_full or key in self:
            return
        record = values.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().tobytes()
        entry = _ENTRY.pack(bytes.fromhex(key), self._sum(record), *size, 0)[:-4]
        try:
            shard = self._own_shard()
            if shutil.disk_usage(self.folder).free - self.record_bytes < self.spared:
                raise OSError(errno.ENOSPC, "what is free is left for checkpoints and other programs")
            self._append(f"{shard}.records", record)
            self._append(f"{shard}.index", entry + struct.pack("<I", self._sum(entry)))
        except OSError as error:
            self._is_full = True
            log.warning(
                "warning: no more %s are kept in %s (%s). The training goes on without.",
                self.kind,
                self.folder,
                error.strerror or error,
            )

    def _append(self, name: str, content: bytes) -> None:
        """Append to a file, or leave it as it was.

        Raises:
            OSError: it cannot be written.
        """
        with (self.folder / name).open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(content) != len(content):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _sum(self, content: bytes | bytearray) -> int:
        return zlib.crc32(content, self._start)

    def _find(self, key: str) -> "_Entry | None":
        """Return the entry of an image; another process may have struck out what was seen before."""
        for _ in range(2):
            if key not in self._places:
                self._refresh()
            if key not in self._places:
                return None
            shard, row = self._places[key]
            entry = None
            with suppress(OSError, struct.error), (self.folder / f"{shard}.index").open("rb") as index:
                index.seek(row * _ENTRY.size)
                entry = _Entry(*_ENTRY.unpack(index.read(_ENTRY.size)))
            if entry is not None and entry.key.hex() == key:
                return entry
            del self._places[key]
            if entry is None or any(entry.key):
                self._strike_out(shard, row)
        return None

    def _own_shard(self) -> str:
        """Return the name of this process's shard; a copy of this object in another one has its own.

        Raises:
            OSError: it cannot be made.
        """
        if self._shard is None or self._shard[0] != os.getpid() or not self._is_whole(self._shard[1]):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._shard = os.getpid(), uuid4().hex
            about = self.folder / "about.json"
            if not about.is_file():
                partial = self.folder / f"{self._shard[1]}.partial"
                partial.write_text(json.dumps(self.about, indent=2), encoding="utf-8")
                partial.replace(about)
            for ending in ("records", "index"):
                (self.folder / f"{self._shard[1]}.{ending}").touch()
        return self._shard[1]

    def _is_whole(self, shard: str) -> bool:
        """Return whether a shard has a record for each entry: it was not deleted or cut short meanwhile."""
        with suppress(OSError):
            entries = (self.folder / f"{shard}.index").stat().st_size // _ENTRY.size
            return (self.folder / f"{shard}.records").stat().st_size == entries * self.record_bytes
        return False

    def _refresh(self) -> None:
        """Read the entries that were added since."""
        files: list[os.DirEntry[str]] = []
        with suppress(OSError):  # a folder that cannot be read has none
            files += os.scandir(self.folder)
        for file in files:
            name, _, ending = file.name.rpartition(".")
            with suppress(OSError):
                if ending == "index" and file.stat().st_size // _ENTRY.size > self._seen.get(name, 0):
                    self._places.update(self._read_entries(name))

    def _read_entries(self, shard: str) -> Iterator[tuple[str, tuple[str, int]]]:
        first = self._seen.get(shard, 0)
        with (self.folder / f"{shard}.index").open("rb") as index:
            index.seek(first * _ENTRY.size)
            content = index.read()
        count = len(content) // _ENTRY.size
        self._seen[shard] = first + count
        for row in range(count):
            entry = content[row * _ENTRY.size : (row + 1) * _ENTRY.size]
            key, *_, own_check = _ENTRY.unpack(entry)
            if self._sum(entry[:-4]) == own_check:
                yield key.hex(), (shard, first + row)
            elif any(entry):
                self._strike_out(shard, first + row)

    def _strike_out(self, shard: str, row: int) -> None:
        """Make an entry of zeros, so that nobody reads its record again."""
        if shard not in self._reported:
            self._reported.add(shard)
            log.warning(
                "warning: %s of images are damaged in %s; they are computed again.",
                self.kind,
                self.folder / f"{shard}.records",
            )
        with suppress(OSError), (self.folder / f"{shard}.index").open("r+b") as index:
            index.seek(row * _ENTRY.size)
            index.write(bytes(_ENTRY.size))


def keep_images(store: ImageStore, values: Mapping[str, Tensor]) -> None:
    """Append what was computed from images.

    Args:
        store: where to.
        values: by the images' entries in `Example.keys`.
    """
    for text, record in values.items():
        key, width, height = text.split()
        store.write(key, record, (int(width), int(height)))
