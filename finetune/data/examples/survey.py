"""One pass over the rows of a split before training, and what it found, in memory-mapped columns.

Every text is built as it will be used and every target as it will be scored, so that a fault in the data is
reported before anything slow is done. Lengths are kept rather than decisions, so that another budget does
not need another pass. The columns are cached next to the rows while rows, task, tokenizer and code stay the
same.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features
from torch.utils.data import DataLoader

from finetune import signals
from finetune.data.batches.collator import Collator
from finetune.data.cache import find_cache_dir, load_or_store
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.decoding import count_cores
from finetune.data.examples.identity import UnidentifiedError, digest_code, identify
from finetune.data.examples.inspection import FINDINGS, Check, Inspection
from finetune.data.reading.faults import Faults
from finetune.errors import is_debugged
from finetune.progress import track

log = logging.getLogger(__name__)

_ROWS_A_PROCESS = 10_000
"""Fewer are inspected before another process has started."""


class Overflow(NamedTuple):
    """The texts that are too long."""

    examples: dict[int, dict[str, str]]
    """Index of each example without a suffix that fits: its `id`, and the `reason`."""
    suffixes: list[dict[str, str]]
    """`id`, `suffix` and `reason` of what does not fit where other suffixes of the example do."""


@dataclass(frozen=True, eq=False)
class Survey:
    """A split and what one pass over its rows found."""

    examples: ExampleDataset
    collator: Collator
    """The one that counted the tokens."""
    columns: pa.Table
    """A row for each example, as `inspection.FINDINGS` describes them."""
    key: str | None
    """Names split, task and check for the cache; None where they have no lasting name."""

    def __len__(self) -> int:
        return len(self.examples)

    def leave_out(self, indices: list[int]) -> "Survey":
        """Return it without some of the examples."""
        if not indices:
            return self
        kept = np.setdiff1d(np.arange(len(self)), indices)
        key = self.key and _digest(f"{self.key} without {sorted(indices)}")
        return Survey(self.examples.select(kept), self.collator, self.columns.take(kept), key)

    def find_faults(self, most_tokens: int | None = None) -> dict[int, str]:
        """Return the examples that cannot be used.

        Args:
            most_tokens: a text with more of them, BOS and EOS included, is a fault; None: no limit.

        Returns:
            Index -> the reason, by index.
        """
        faulty = pc.indices_nonzero(self.columns["fault"].is_valid())
        faults = dict(zip(faulty.to_pylist(), self.columns["fault"].take(faulty).to_pylist(), strict=True))
        if most_tokens is not None:
            rows, tokens = self._count_text_tokens()
            long = tokens > most_tokens
            # The first suffix of each: a text that is too long is reported before what the check refuses.
            first, places = np.unique(rows[long], return_index=True)
            read_row = self.examples.read_rows()
            for index, count in zip(first.tolist(), tokens[long][places].tolist(), strict=True):
                faults[index] = (
                    f"Row `{read_row(index)['id']}` is too long to be evaluated: prefix and "
                    f"suffix have {count:,} text tokens, the limit is {most_tokens:,}. Leave the row out "
                    "of the data, or raise collator.max_text_length."
                )
        return dict(sorted(faults.items()))

    def count_text_boxes(self, faults: dict[int, str]) -> int:
        """Return the number of examples without a fault that have boxes in a suffix compared as text."""
        boxes = self.columns["text_boxes"].to_numpy().copy()
        boxes[list(faults)] = False
        return int(boxes.sum())

    def find_overflow(self, budget: int) -> Overflow:
        """Find the texts that `Collator.find_too_long` will not use.

        Args:
            budget: the most tokens allowed, BOS and EOS included.
        """
        rows, tokens = self._count_text_tokens(with_prefix=not self.collator.shorten_prefix)
        overflow, read_row = Overflow({}, []), self.examples.read_rows()
        for index in np.unique(rows[tokens > budget]).tolist():
            # The rows are in order, and those of one example are together.
            counts = tokens[slice(*np.searchsorted(rows, [index, index + 1]))].tolist()
            row = read_row(index)
            if min(counts) > budget:
                reason = f"needs {min(counts)} text tokens of {budget}"
                overflow.examples[index] = {"id": row["id"], "reason": reason}
                continue
            suffixes = self.examples.task.measure_text(row).suffixes
            for suffix, count in dict(zip(suffixes, counts, strict=True)).items():
                if count > budget:
                    need = f"with this one of its {len(suffixes)} suffixes it needs {count} text tokens of"
                    reason = f"{need} {budget}"
                    overflow.suffixes.append({"id": row["id"], "suffix": suffix, "reason": reason})
        return overflow

    def measure_references(self, limit: int | None = None) -> tuple[int, int]:
        """Return the length of the longest suffix, and the number of examples with one that is cut.

        Args:
            limit: most tokens of a generated answer, EOS among them, as in both results; None: none is cut.
        """
        rows, tokens = self._list_suffixes()
        longest = int(tokens.max(initial=0)) + 1
        return longest, len(np.unique(rows[tokens + 1 > (longest if limit is None else limit)]))

    def find_shared(self, other: "Survey") -> np.ndarray:
        """Return the examples that are also in another split: the same images and the same texts."""
        ours, theirs = self.columns["content"], other.columns["content"]
        # Found in two steps, so that only the contents of this split, usually the smaller one, are hashed.
        shared = theirs.filter(pc.is_in(theirs, value_set=ours.combine_chunks(), skip_nulls=True))
        is_shared = pc.is_in(ours, value_set=shared.combine_chunks(), skip_nulls=True)
        return np.flatnonzero(is_shared.to_numpy())

    def estimate_lengths(self) -> np.ndarray:
        """Return the tokens of each example in a batch, without reading a row: (len,) int32.

        Which of several suffixes an epoch has follows from the id, which would have to be read: here their
        mean is counted.
        """
        collator, images = self.collator, self.examples.count_images()
        rows, suffixes = self._list_suffixes()
        if collator.suffix_choice == "first" and not collator.every_suffix:
            rows, first = np.unique(rows, return_index=True)
            suffixes = suffixes[first]
        # EOS each
        tokens: np.ndarray = np.bincount(rows, suffixes + 1, minlength=len(self))
        if not collator.every_suffix:
            tokens = tokens / np.maximum(np.bincount(rows, minlength=len(self)), 1)
        around = collator.count_text_tokens("", "") - 1
        tokens = around + self.columns["prefix"].fill_null(0).to_numpy() + tokens
        if collator.shorten_prefix and collator.max_text_length is not None:
            tokens = np.minimum(tokens, collator.max_text_length)
        return (images * collator.tokens_per_image + tokens).round().astype(np.int32)

    def _list_suffixes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the example's index and the tokens of each suffix of the split, in order: (S,)."""
        suffixes = self.columns["suffixes"].combine_chunks()
        return pc.list_parent_indices(suffixes).to_numpy(), pc.list_flatten(suffixes).to_numpy()

    def _count_text_tokens(self, with_prefix: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return, as `_list_suffixes`, the tokens of each suffix with BOS, prefix, newline and EOS."""
        rows, tokens = self._list_suffixes()
        tokens = tokens + self.collator.count_text_tokens("", "")
        if with_prefix:
            tokens += self.columns["prefix"].fill_null(0).to_numpy()[rows]
        return rows, tokens


def survey_rows(examples: ExampleDataset, collator: Collator, check: Check | None = None) -> Survey:
    """Build the text and the target of every row, without its images; the cache remembers what was found.

    Args:
        examples: the split.
        collator: knows the reserved tokens, and counts.
        check: what else a row must satisfy.

    Raises:
        UserError: the cache cannot be written.
    """
    inspection = Inspection(examples, collator, check)
    key = _make_key(inspection)
    columns = remember(key and f"survey-{key}", FINDINGS, lambda: _inspect(inspection))
    return Survey(examples, collator, columns, key)


def remember(
    name: str | None, features: Features, make: Callable[[], Iterable[pa.StructArray]]
) -> pa.Table:
    """Return a table from the cache, or make it and keep it there.

    Args:
        name: of its folder; None: it is not kept.
        features: its columns.
        make: returns arrays of its rows.

    Raises:
        UserError: the cache cannot be written; or what `make` raises.
    """
    if name is None or is_debugged():
        batches = [pa.RecordBatch.from_struct_array(rows) for rows in make()]
        return pa.Table.from_batches(batches, features.arrow_schema)
    cached = load_or_store(
        find_cache_dir() / name, features, lambda _: make(), Faults(skip=False, origin="The split")
    )
    return cached.rows.data.table


def _make_key(inspection: Inspection) -> str | None:
    """Return the name of the findings in the cache; None where they depend on what cannot be named."""
    examples = inspection.examples
    parts = (examples.task, examples.augment, inspection.check)
    try:
        identity = [identify(part) for part in parts]
    except UnidentifiedError as error:
        log.info("The checks of the %s rows are not cached: %s.", examples.split, error)
        return None
    # The fingerprint follows from the files, their times, and how rows were selected or changed since.
    dependencies = (examples.rows._fingerprint, examples.split, identity, digest_code())
    return _digest(f"{dependencies} {inspection.collator.describe_tokenizer()}")


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _inspect(inspection: Inspection) -> Iterator[pa.StructArray]:
    """Yield the findings in the order of the rows, on as many processes as help."""
    workers = 0 if is_debugged() else min(count_cores(), len(inspection.examples) // _ROWS_A_PROCESS)
    loader = DataLoader(
        inspection,
        batch_size=None,
        num_workers=workers if workers > 1 else 0,
        worker_init_fn=signals.end_with_parent,
    )
    with signals.held():
        chunks = iter(loader)
    yield from track(
        chunks, f"checking {inspection.examples.split} rows", "k rows", total=len(loader), leave=False
    )
