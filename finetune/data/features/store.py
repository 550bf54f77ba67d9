"""Features of images on disk: shards of records of one size, shared by any number of processes.

    features/KEY/about.json     what the features depend on, for the reader of the folder
    features/KEY/NAME.features  records, one after the other
    features/KEY/NAME.index     an entry of 32 bytes for each: key, checksums, size of the image

A process appends to a shard of its own: first the record, then its entry, so that whoever reads the entry
finds the record. No lock is needed; at worst two processes store the same image. A record that does not
have its checksum is struck out of the index and computed again.
"""

import json
import logging
import os
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
    """The features of an image."""

    values: Tensor
    """(tokens, width)."""
    size: tuple[int, int]
    """Width and height of the image as it was decoded, pixels."""


def make_key(content: bytes, *variant: object) -> str:
    """Return the key of an image.

    Args:
        content: of its file.
        variant: how it is decoded and resized, where images differ in it.
    """
    person = blake2b(repr(variant).encode(), digest_size=16).digest()
    return blake2b(content, digest_size=16, person=person).hexdigest()


class FeatureStore:
    """Reads and appends features; picklable, and usable after a fork.

    Args:
        folder: of all features with the same dependencies; made with the first record.
        about: these dependencies.
        shape: tokens and width of a record.
        dtype: of its numbers.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, object], shape: tuple[int, int], dtype: torch.dtype
    ) -> None:
        self.folder, self.about, self.shape, self.dtype = folder, about, shape, dtype
        self.record_bytes = shape[0] * shape[1] * dtype.itemsize
        self._places: dict[str, tuple[str, int]] = {}
        self._seen: dict[str, int] = {}
        self._shard: tuple[int, str] | None = None
        self._is_full = False
        self._reported: set[str] = set()

    def __contains__(self, key: str) -> bool:
        if key not in self._places:
            self._refresh()
        return key in self._places

    def __len__(self) -> int:
        self._refresh()
        return len(self._places)

    def read(self, key: str) -> Stored | None:
        """Return the features of an image; None if they are not there or damaged."""
        if key not in self:
            return None
        shard, row = self._places[key]
        try:
            # Not mapped: a file that is cut short meanwhile would end the process.
            with (self.folder / f"{shard}.index").open("rb") as index:
                index.seek(row * _ENTRY.size)
                entry = _ENTRY.unpack(index.read(_ENTRY.size))
            with (self.folder / f"{shard}.features").open("rb") as file:
                file.seek(row * self.record_bytes)
                record = bytearray(file.read(self.record_bytes))
            if len(record) != self.record_bytes or zlib.crc32(record) != entry[1] or entry[0].hex() != key:
                raise ValueError("damaged")
        except (OSError, struct.error, ValueError):
            self._strike_out(*self._places.pop(key))
            return None
        return Stored(torch.frombuffer(record, dtype=self.dtype).view(self.shape), (entry[2], entry[3]))

    def write(self, key: str, values: Tensor, size: tuple[int, int]) -> None:
        """Append the features of an image, unless they are there; without room on the disk nothing is kept.

        Args:
            key: from `make_key`.
            values: (tokens, width), on any device.
            size: width and height of the image, pixels.
        """
        if self._is_full or key in self:
            return
        record = values.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().tobytes()
        entry = _ENTRY.pack(bytes.fromhex(key), zlib.crc32(record), *size, 0)
        try:
            shard = self._own_shard()
            with (self.folder / f"{shard}.features").open("ab") as file:
                file.write(record)
            with (self.folder / f"{shard}.index").open("ab") as index:
                index.write(entry[:-4] + struct.pack("<I", zlib.crc32(entry[:-4])))
        except OSError as error:
            self._is_full = True
            log.warning(
                "warning: no more features are kept in %s (%s). The training goes on without.",
                self.folder,
                error.strerror or error,
            )

    def _own_shard(self) -> str:
        """Return the name of this process's shard; a copy of this object in another one has its own."""
        if self._shard is None or self._shard[0] != os.getpid():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._shard = os.getpid(), uuid4().hex
            about = self.folder / "about.json"
            if not about.is_file():
                partial = self.folder / f"{self._shard[1]}.partial"
                partial.write_text(json.dumps(self.about, indent=2), encoding="utf-8")
                partial.replace(about)
        return self._shard[1]

    def _refresh(self) -> None:
        """Read the entries that were added since."""
        # A folder that cannot be read has none.
        with suppress(OSError), os.scandir(self.folder) as files:
            for file in files:
                name, _, ending = file.name.rpartition(".")
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
            key, *_, check = _ENTRY.unpack(entry)
            if zlib.crc32(entry[:-4]) == check:
                yield key.hex(), (shard, first + row)
            elif any(entry):
                self._strike_out(shard, first + row)

    def _strike_out(self, shard: str, row: int) -> None:
        """Make an entry of zeros, so that nobody reads its record again."""
        if shard not in self._reported:
            self._reported.add(shard)
            log.warning(
                "warning: features of images are damaged in %s; they are computed again.",
                self.folder / f"{shard}.features",
            )
        with suppress(OSError), (self.folder / f"{shard}.index").open("r+b") as index:
            index.seek(row * _ENTRY.size)
            index.write(bytes(_ENTRY.size))
