"""Check rows before training: build text and target of each as they will be used, and count tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count

import pyarrow as pa
import torch.utils.data
from datasets import Features, List, Value

from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import PICTURES, ExampleDataset, prefix_part
from finetune.data.images import Picture
from finetune.data.reading.record import describe_value
from finetune.errors import UserError, is_debugged
from finetune.tasks.task import Row, Target, Text

Check = Callable[[Row, Target], None]
"""(row, target): raises `UserError` where a row cannot be used."""

FINDINGS = Features(
    {
        "fault": Value("string"),
        "prefix": Value("int32"),
        "suffixes": List(Value("int32")),
        "text_boxes": Value("bool"),
        "content": Value("int64"),
        "image": Value("string"),
    }
)
"""Columns of a survey, a row for each example: why it cannot be used; the tokens of its prefix and of each
suffix, null where it has no usable text; whether a suffix that is compared as text has location tokens; a
hash of its texts and image paths, null where images are inside the rows; and the image file that was read
for its size, so that the cache notices another image."""


CHUNK = 1000
"""Rows that are inspected at a time."""

_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Exceptions of a task or a metric on unexpected values."""

_REMEMBERED = 1 << 16
_NAMES = {"id", "group"}
"""Text columns by which two examples may differ and still be the same."""


@dataclass(eq=False)
class Inspection(torch.utils.data.Dataset[pa.StructArray]):
    """The findings about a split, in chunks of rows; read in this process or in a loader's workers."""

    examples: ExampleDataset
    collator: Collator
    """Finds reserved tokens, and counts tokens."""
    check: Check | None = None
    """An additional check of each row."""

    def __post_init__(self) -> None:
        texts = (Value("string"), List(Value("string")))
        features = self.examples.rows.features
        self._compared = [
            name for name, kind in sorted(features.items()) if kind in texts and name not in _NAMES
        ]
        self._references = [name for name in PICTURES if name in self._compared]
        read = [name for name in features if name not in PICTURES or name in self._references]
        self._rows = self.examples.rows.select_columns(read)
        self._lengths: dict[str, int] = {}

    def __len__(self) -> int:
        return -(-len(self._rows) // CHUNK)

    def __getitem__(self, number: int) -> pa.StructArray:
        """Return the findings about a chunk of rows.

        Raises:
            Exception: a task or a metric failed on a row, under FINETUNE_DEBUG=1.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        columns = self._rows[number * CHUNK : (number + 1) * CHUNK]
        contents: list[int | None] = [None] * len(columns["id"])
        if self._references:
            compared = (columns[name] for name in self._compared)
            contents = [_hash(values) for values in zip(*compared, strict=True)]
        for name in self._references:
            del columns[name]
        findings = []
        rows = zip(*columns.values(), strict=True)
        for index, values, content in zip(count(number * CHUNK), rows, contents, strict=False):
            row = prefix_part(dict(zip(columns, values, strict=True)))
            findings.append({**self._inspect(index, row), "content": content})
        return pa.array(findings, type=pa.struct(list(FINDINGS.arrow_schema)))

    def _inspect(self, index: int, row: Row) -> dict[str, object]:
        """Return the columns of `FINDINGS` that are known; what is missing is null."""
        finding: dict[str, object] = {"text_boxes": False}
        try:
            text, target = measure_example(self.examples, index, row, finding)
            self._check_text(row, text, target)
            finding["prefix"] = self._count_tokens(text.prefix)
            finding["suffixes"] = [self._count_tokens(suffix) for suffix in text.suffixes]
            if self.examples.augment is not None:
                self.examples.augment.check_row(row)
            if self.check is not None:
                self.check(row, target)
        except UserError as error:
            fault = str(error)
        except _FAILURES as error:
            if is_debugged():
                raise
            fault = (
                f"Row `{row['id']}` cannot be used: {type(error).__name__}: {error}. Are its columns of "
                "the types that task and metric read? FINETUNE_DEBUG=1 shows where it happened."
            )
        else:
            boxes = "objects" not in target and any("<loc" in suffix for suffix in text.suffixes)
            return {**finding, "text_boxes": boxes}
        # Arrow cannot store half of a surrogate pair, which a custom task may write.
        return {**finding, "fault": fault.encode("utf-8", "backslashreplace").decode()}

    def _check_text(self, row: Row, text: Text, target: Target) -> None:
        name = f"Row `{row['id']}`"
        if not text.suffixes:
            raise UserError(
                f"{name} has no suffix: nothing to train on, and no reference to score against."
            )
        for number, suffix in enumerate(text.suffixes, 1):
            # An empty answer that is compared as objects means that there are none.
            if not suffix.strip() and "objects" not in target:
                which = f"suffix {number} of {len(text.suffixes)}" if len(text.suffixes) > 1 else "suffix"
                boxes = text.prefix.startswith(("detect ", "segment "))
                hint = (
                    "; where boxes as text are the answers: task=box_text metric=detection" if boxes else ""
                )
                raise UserError(
                    f"{name}: its {which} has no text: {suffix!r}. Write the answer there{hint}."
                )
        for written in (text.prefix, *text.suffixes):
            token = self.collator.find_reserved(written)
            if token is not None:
                raise UserError(
                    f"{name}: its text {describe_value(written)} contains the reserved token {token}. "
                    "Leave it out: image tokens, BOS and EOS are added here."
                )

    def _count_tokens(self, text: str) -> int:
        """Return a text's tokens; answers and prompts often repeat."""
        if text not in self._lengths:
            if len(self._lengths) >= _REMEMBERED:
                self._lengths.clear()
            self._lengths[text] = self.collator.count_tokens(text)
        return self._lengths[text]


def measure_example(
    examples: ExampleDataset, index: int, row: Row, finding: dict[str, object]
) -> tuple[Text, Target]:
    """Build the text and the target of a row without its images.

    Args:
        examples: the split.
        index: of the row.
        row: as `ExampleDataset.iterate_rows` yields it.
        finding: gets the `image` file that is read if the source gives no size.

    Raises:
        UserError: the task cannot write the row, or the image cannot be read.
    """
    task = examples.task
    try:
        return task.measure_text(row), task.build_target(row)
    except _FAILURES:
        if row.get("width", 0) is not None:
            raise
        # The source gives no size: `ExampleDataset` fills it in when it decodes the image.
        image = examples.rows[index].get("image")
        if image is None:
            raise
    is_inside = not isinstance(image, str) and image.get("bytes") is not None
    finding["image"] = None if is_inside else image if isinstance(image, str) else image.get("path")
    height, width = Picture(image, f"{examples.split} example `{row['id']}`").size()
    row = {**row, "width": width, "height": height}
    return task.measure_text(row), task.build_target(row)


def _hash(values: tuple[object, ...]) -> int:
    """Return a 64-bit hash of the texts and lists of texts of a row."""
    digest = blake2b(repr(values).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
