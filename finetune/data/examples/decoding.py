"""Decode the images of a split: which cannot be used, and fingerprints of the others."""

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from finetune import signals
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.images import check_size
from finetune.errors import UserError
from finetune.progress import track

_BATCH = 32
_GRID = 16
_REDUCED = 128
_NOISE = 2
"""Levels of gray."""


class Fingerprint(NamedTuple):
    """An image by its content."""

    size: tuple[int, int]
    """Height and width, pixels."""
    content: bytes
    """Digest of the pixels."""
    outline: bytes
    """What `hash_outline` returns: alike for images that look alike."""


class Decoded(NamedTuple):
    """The images of one row."""

    row: int
    """Its index."""
    fault: str | None
    """Why they cannot be used."""
    images: tuple[Fingerprint, ...]
    """Empty where there is a fault, or no fingerprints were asked for."""


def count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_images(
    examples: ExampleDataset, indices: Sequence[int], workers: int = 0, *, fingerprints: bool = False
) -> Iterator[Decoded]:
    """Decode the images of some rows, each file once in a process, under a bar with their rate.

    Args:
        examples: the split.
        indices: of the rows.
        workers: processes that decode; 0: this one.
        fingerprints: also describe each image.
    """
    loader = DataLoader(
        _Images(examples, indices, fingerprints),
        batch_size=_BATCH,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=signals.ignore_in_worker,
    )
    with signals.held():
        batches = iter(loader)
    description = f"checking {examples.split} images"
    bar: tqdm[None]
    with track((), description, " images", total=len(indices), leave=False) as bar:
        for batch in batches:
            yield from batch
            bar.update(len(batch))


def find_broken_images(
    examples: ExampleDataset, workers: int = 0, part: range | None = None
) -> dict[int, str]:
    """Decode every image of a split.

    Args:
        examples: the split.
        workers: processes that decode.
        part: the rows to check; None: all of them.

    Returns:
        Index of a row with an image that cannot be used -> the reason.
    """
    indices = range(len(examples)) if part is None else part
    return {
        row.row: row.fault for row in decode_images(examples, indices, workers) if row.fault is not None
    }


def hash_outline(image: Image.Image) -> bytes:
    """Return 256 bits that hardly change with an image's size, quality and brightness.

    It is the difference hash: each bit says whether a cell of a 16 x 16 grid is brighter than the one left
    of it. The packages for it depend on SciPy and PyWavelets, for other hashes than this one.
    Source: https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
    """
    gray = image.convert("L")
    gray = gray.reduce(max(1, min(gray.size) // _REDUCED)).convert("F")
    cells = np.asarray(gray.resize((_GRID + 1, _GRID), Image.Resampling.LANCZOS))
    # In flat areas, noise alone decides which of two cells is brighter.
    return np.packbits(cells[:, 1:] - cells[:, :-1] > _NOISE).tobytes()


class _Images(Dataset[Decoded]):
    """The images of each row; read in the loader's workers."""

    def __init__(self, examples: ExampleDataset, indices: Sequence[int], fingerprints: bool) -> None:
        self.examples = examples
        self.indices = indices
        self.fingerprints = fingerprints
        self._decoded: dict[str, Fingerprint | str] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Decoded:
        index = self.indices[number]
        row = self.examples.rows[index]
        where = f"{self.examples.split} example `{row['id']}`"
        sources = row.get("images") or [row.get("image")]
        images = []
        for source in sources:
            if source is None:
                return Decoded(index, f"{where} has no image.", ())
            found = self._decode(source, where)
            if isinstance(found, str):
                return Decoded(index, found, ())
            try:
                if len(sources) == 1:
                    check_size((row.get("height"), row.get("width")), found.size, where)
            except UserError as error:
                return Decoded(index, str(error), ())
            images.append(found)
        return Decoded(index, None, tuple(images) if self.fingerprints else ())

    def _decode(self, source: str | Mapping[str, object], where: str) -> Fingerprint | str:
        """Return the image, or the reason why it cannot be used; files are decoded once."""
        if isinstance(source, str) and source in self._decoded:
            return self._decoded[source]
        found: Fingerprint | str
        try:
            found = self._describe(self.examples.load_images({"images": [source]}, where)[0])
        except UserError as error:
            found = str(error)
        if isinstance(source, str):
            self._decoded[source] = found
        return found

    def _describe(self, image: Image.Image) -> Fingerprint:
        size = (image.height, image.width)
        if not self.fingerprints:
            return Fingerprint(size, b"", b"")
        content = blake2b(image.tobytes(), digest_size=16, key=repr(size).encode()).digest()
        return Fingerprint(size, content, hash_outline(image))
