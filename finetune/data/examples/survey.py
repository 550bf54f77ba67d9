"""One pass over the rows of a split, and by option over its images: what would stop a run in the middle.

Every text is built as it will be used and every target as it will be scored, so that a fault in the data is
reported before anything slow is done.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from finetune import signals
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.images import Picture, check_size
from finetune.errors import UserError
from finetune.tasks.task import Row, Text

Check = Callable[[Row, Mapping[str, Any]], None]
"""(row, target): raises `UserError` where a row cannot be used."""

_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a task or a metric raises on values that it does not expect."""


class Survey(NamedTuple):
    """What one pass over the rows found."""

    faults: dict[int, str]
    """Index of a row that cannot be used -> the reason."""
    text_boxes: int
    """Rows with location tokens in a suffix that is compared as text."""


def survey_rows(
    examples: ExampleDataset, collator: Collator, check: Check | None = None, most_tokens: int | None = None
) -> Survey:
    """Build the text and the target of every row, without its images.

    Args:
        examples: the split.
        collator: knows the reserved tokens, and counts.
        check: what else a row must satisfy.
        most_tokens: a text with more of them, BOS and EOS included, is a fault; None: no limit.
    """
    faults: dict[int, str] = {}
    text_boxes = 0
    for index, row in enumerate(examples.iterate_rows()):
        try:
            text, target = _build(examples, index, row)
            _check_text(row, text, target, collator, most_tokens)
            if check is not None:
                check(row, target)
        except UserError as error:
            faults[index] = str(error)
        except _FAILURES as error:
            if os.environ.get("FINETUNE_DEBUG") == "1":
                raise
            faults[index] = (
                f"Row `{row['id']}` cannot be used: {type(error).__name__}: {error}. Are its columns of "
                "the types that task and metric read? FINETUNE_DEBUG=1 shows where it happened."
            )
        else:
            text_boxes += "objects" not in target and any("<loc" in suffix for suffix in text.suffixes)
    return Survey(faults, text_boxes)


def _build(examples: ExampleDataset, index: int, row: Row) -> tuple[Text, Mapping[str, Any]]:
    task = examples.task
    try:
        return task.measure_text(row), task.build_target(row)
    except _FAILURES:
        if row.get("width", 0) is not None:
            raise
        # A source that leaves the size to the image: `ExampleDataset` fills it in when it decodes.
        image = examples.rows[index].get("image")
        if image is None:
            raise
        height, width = Picture(image, f"{examples.split} example `{row['id']}`").size()
        row = {**row, "width": width, "height": height}
        return task.measure_text(row), task.build_target(row)


def _check_text(
    row: Row, text: Text, target: Mapping[str, Any], collator: Collator, most_tokens: int | None
) -> None:
    name = f"Row `{row['id']}`"
    if not text.suffixes:
        raise UserError(f"{name} has no suffix: nothing to train on, and no reference to score against.")
    for number, suffix in enumerate(text.suffixes, 1):
        # Where an answer is compared as objects, an empty one says that there are none.
        if not suffix.strip() and "objects" not in target:
            which = f"suffix {number} of {len(text.suffixes)}" if len(text.suffixes) > 1 else "suffix"
            raise UserError(f"{name}: its {which} has no text: {suffix!r}. Write the answer there.")
    for written in (text.prefix, *text.suffixes):
        token = collator.find_reserved(written)
        if token is not None:
            raise UserError(
                f"{name}: its text {_shorten(written)!r} contains the reserved token {token}. Leave it "
                "out: image tokens, BOS and EOS are added here."
            )
    if most_tokens is None:
        return
    for suffix in text.suffixes:
        # No token is shorter than a byte: short texts need no tokenizer.
        if len(text.prefix.encode()) + len(suffix.encode()) + 3 > most_tokens:
            tokens = collator.count_text_tokens(text.prefix, suffix)
            if tokens > most_tokens:
                raise UserError(
                    f"{name} is too long to be evaluated: prefix and suffix have {tokens:,} text tokens, "
                    f"the limit is {most_tokens:,}. Leave the row out of the data, or raise "
                    "collator.max_text_length."
                )


def _shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def find_broken_images(
    examples: ExampleDataset, workers: int = 0, part: range | None = None
) -> dict[int, str]:
    """Decode every image of a split, each file once.

    Args:
        examples: the split.
        workers: processes that decode.
        part: the rows to look at; None: all of them.

    Returns:
        Index of a row with an image that cannot be used -> the reason.
    """
    loader = DataLoader(
        _ImageFaults(examples, part if part is not None else range(len(examples))),
        batch_size=32,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=signals.ignore_in_worker,
    )
    faults: dict[int, str] = {}
    with signals.held():
        batches = iter(loader)
    bar = tqdm(
        batches,
        desc=f"checking {examples.split} images",
        total=len(loader),
        unit="batch",
        disable=None,
        leave=False,
    )
    for batch in bar:
        faults.update({index: fault for index, fault in batch if fault is not None})
    return faults


class _ImageFaults(Dataset[tuple[int, str | None]]):
    """What is wrong with the images of each row; read in the loader's workers."""

    def __init__(self, examples: ExampleDataset, indices: range) -> None:
        self.examples = examples
        self.indices = indices
        self._decoded: dict[str, tuple[tuple[int, int] | None, str]] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[int, str | None]:
        index = self.indices[number]
        row = self.examples.rows[index]
        where = f"{self.examples.split} example `{row['id']}`"
        sources = row.get("images") or [row.get("image")]
        for source in sources:
            if source is None:
                return index, f"{where} has no image."
            size, fault = self._decode(source, where)
            try:
                if size is not None and len(sources) == 1:
                    check_size((row.get("height"), row.get("width")), size, where)
            except UserError as error:
                fault = str(error)
            if fault:
                return index, fault
        return index, None

    def _decode(self, source: Any, where: str) -> tuple[tuple[int, int] | None, str]:
        """Return height and width, or the reason why there are none; remembered for files."""
        if isinstance(source, str) and source in self._decoded:
            return self._decoded[source]
        try:
            image = self.examples.load_images({"images": [source]}, where)[0]
            result: tuple[tuple[int, int] | None, str] = ((image.height, image.width), "")
        except UserError as error:
            result = (None, str(error))
        if isinstance(source, str):
            self._decoded[source] = result
        return result
