"""The sources of rows with their options: `dataset=NAME` chooses one, and `load` reads it.

Reading needs `datasets` and pyarrow. A source therefore names its `loader`, which is imported only in
`load`, so that help and error messages appear at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from finetune.errors import UserError
from finetune.option import COUNT, Range, option

if TYPE_CHECKING:
    from finetune.data.rows import Splits


class OnError(StrEnum):
    """The treatment of faults in the data."""

    error = "error"
    skip = "skip"


@dataclass
class Source:
    """A source of rows; a custom source is a function that returns `Splits`."""

    loader = ""
    """Module and name of the function that reads both splits, given these options; it raises as `load`."""

    def load(self) -> "Splits":
        """Read the rows of both splits.

        Raises:
            UserError: names the file and the place in it.
        """
        return resolve_name(self.loader)(self)

    def for_validation(self) -> "Source":
        """Return the source with as little of its training split as possible."""
        return self

    def for_test(self) -> "Source | None":
        """Return a source whose validation split is the test split; None without one."""
        return None

    def describe(self, split: str) -> str:
        """Return a name of the source of a split, for messages."""
        return type(self).__name__.lower()

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that exclude each other or are missing.

        Args:
            prefix: key of the options, such as `dataset.`.
        """
        yield from ()

    @property
    def has_train(self) -> bool:
        """Whether there is a training split."""
        return True

    @property
    def skips_faults(self) -> bool | None:
        """Whether rows with faults are left out; None if the source has no such option."""
        return None

    @property
    def benchmark(self) -> str | None:
        """Name of the published benchmark; None for other data."""
        return None

    def mixed_parts(self) -> "Mapping[str, Part]":
        """Return the parts of a mixture; empty for other sources."""
        return {}


@dataclass
class FileOptions(Source):
    """Options of every format of local files."""

    train: str | None = None
    """File or folder to train on; several files: a pattern such as `shards/*.jsonl`, or
    `[a.jsonl,b.jsonl]`. Of the folder of an export with several splits, its training split is read."""
    validation: str | None = None
    """File or folder to evaluate on, likewise; or give `validation_fraction`."""
    validation_fraction: float | None = option(None, Range(0, 1, above_least=True, below_most=True))
    """Share of `train` to hold out, between 0 and 1. Rows with the same image stay together."""
    test: str | None = None
    """File or folder to score once, with the final model: nothing is chosen by it."""
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""

    def for_validation(self) -> "Source":
        """Return the source with its validation file in both places, or unchanged if it holds out a share.

        Raises:
            UserError: the file of the held-out share is missing.
        """
        if self.validation is not None:
            # Every format reads two files; the second time the same one comes from the cache.
            return replace(self, train=self.validation, validation_fraction=None)
        single = self.train and not any(mark in self.train for mark in "*?[{")
        if self.validation_fraction is not None and self.train and single and not Path(self.train).exists():
            raise UserError(
                f"No file {self.train}. The validation split is a share of it (dataset.validation_fraction="
                f"{self.validation_fraction}): say where it is now (dataset.train=FILE), or name another "
                "file to evaluate on (dataset.validation=FILE dataset.validation_fraction=null)."
            )
        return self

    def for_test(self) -> "Source | None":
        """Return the source with its test file alone, which is then read in both places."""
        if self.test is None:
            return None
        return replace(self, train=None, validation=None, validation_fraction=None)

    @property
    def is_test(self) -> bool:
        """Whether the test file is the only one."""
        return self.train is None and self.validation is None and self.test is not None

    def files(self) -> list[tuple[str, str | None]]:
        """Return option and file of the training split, and of the validation split if it has its own."""
        if self.is_test:
            return [("test", self.test)]
        own = [] if self.validation is None else [("validation", self.validation)]
        return [("train", self.train), *own]

    def describe(self, split: str) -> str:
        """Return the file of a split."""
        if self.is_test or split == "test":
            return str(self.test)
        return str((self.train if split == "train" else self.validation) or self.train)

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that are missing, or given in two ways."""
        # A validation file alone is enough to evaluate.
        if self.train is None and self.validation is None:
            yield f"{prefix}train is missing: {prefix}train=FILE."
        if self.validation is None and self.validation_fraction is None and not self._names_validation():
            yield f"Expected one of {prefix}validation=FILE and {prefix}validation_fraction=0.1."
        if self.validation is not None and self.validation_fraction is not None:
            yield (
                f"{prefix}validation={self.validation} and {prefix}validation_fraction="
                f"{self.validation_fraction} are both given: add {prefix}validation_fraction=null."
            )

    def _names_validation(self) -> bool:
        """Whether the file of the training split names the validation split."""
        return False

    @property
    def has_train(self) -> bool:
        """Whether there is a training split."""
        return self.train is not None

    @property
    def skips_faults(self) -> bool | None:
        """Whether rows with faults are left out."""
        return self.on_error == OnError.skip


@dataclass
class ImageFileOptions(FileOptions):
    """Options of every format whose files name images."""

    image_dir: str | None = None
    """Folder of the images. `null`: the folder of the file that names them."""


@dataclass
class BoxFileOptions(ImageFileOptions):
    """Options of every format of boxes."""

    clip: bool = True
    """Clip boxes that are partly outside their images, and count them; `false`: they are faults, as those
    wholly outside always are."""


@dataclass
class Jsonl(ImageFileOptions):
    """JSON objects, in lines or a list: `image` (or several), `prefix`, `suffix`; maybe `id`, `group`."""

    loader = "finetune.data.formats.jsonl:load_jsonl"

    columns: dict[str, Any] = field(default_factory=dict)
    """Key here -> key in the file, if they differ, such as `{prefix: question, suffix: answer}`."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Also yield invalid names of keys."""
        yield from super().problems(prefix)
        yield from texts_in(self.columns, f"{prefix}columns")


@dataclass
class Conversations(BoxFileOptions):
    """LLaVA's JSON, ShareGPT, chat messages, query and response: each answer is an example."""

    loader = "finetune.data.formats.conversations:load_conversations"

    ignore_system: bool = False
    """Omit system turns, which PaliGemma does not support; otherwise they are faults."""
    skip_text_only: bool = True
    """Leave out conversations without an image: they are counted, and listed in the run's `skipped.jsonl`;
    `false`: they are faults."""


@dataclass
class Table(ImageFileOptions):
    """CSV, TSV, flat JSON or parquet, by the names of the columns; every value stays a text."""

    loader = "finetune.data.formats.table:load_table"

    columns: dict[str, Any] = field(default_factory=dict)
    """Column name here -> name in the file, if they differ, such as `{image: path, answers: label}`."""
    separator: str | None = None
    """Text such as `|` that splits `answers`, `captions`, `suffix` and `choices` into several texts."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Also yield invalid names of columns."""
        yield from super().problems(prefix)
        yield from texts_in(self.columns, f"{prefix}columns")


@dataclass
class Webdataset(FileOptions):
    """Tar shards: KEY.jpg with KEY.json (`prefix`, `suffix`) or with KEY.txt (a caption)."""

    loader = "finetune.data.formats.webdataset:load_webdataset"


@dataclass
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits: 1,500 to train on, 297 to test."""

    size: int = option(56, Range(8, 4096))
    """Side in pixels to which the 8x8 scans are enlarged."""

    def load(self) -> "Splits":
        """Draw the digits."""
        from finetune.data.shipped.digits import load_digits

        return load_digits(self.size)


@dataclass
class Canvas(Source):
    """Handwritten digits composed on a canvas, with exact boxes and masks."""

    loader = "finetune.data.shipped.canvas:load_canvases"

    train: int = option(4000, Range(1, 1e6))
    """Canvases to train on, from the scans that `digits` trains on."""
    validation: int = option(200, Range(1, 1e6))
    """Canvases to evaluate on, from the other scans."""
    size: int = option(56, Range(8, 4096))
    """Side of a canvas, pixels."""
    digits: int = option(2, Range(1, 100))
    """Most digits on one canvas."""


@dataclass
class Part:
    """One part of a mixture."""

    source: Any = None
    """Its rows: any `dataset`, chosen with `/dataset@dataset.parts.NAME.source: CHOICE`."""
    task: Any = None
    """Its task: any `task`, chosen with `/task@dataset.parts.NAME.task: CHOICE`."""
    weight: float | None = option(None, Range(0, 1e9, above_least=True))
    """Its relative share of the examples drawn. `null`: its number of examples."""
    limit: int | None = option(None, COUNT)
    """Train on its first n rows only."""


GROUP_OF_PART = {"source": "dataset", "task": "task"}
"""Field of a mixture's part -> the group of its choices."""


@dataclass
class Mixture(Source):
    """Several sources in one run, each with its own task."""

    loader = "finetune.data.examples.mixture:load_parts"

    parts: dict[str, Part] = field(default_factory=dict)
    """Name -> `source` (a dataset), `task`, and optionally `weight` (its share of the examples drawn;
    default: its number of examples) and `limit` (train on its first n). The parts are scored as groups."""

    def for_validation(self) -> "Source":
        """Return the mixture of its parts' validation splits."""
        return replace(
            self,
            parts={
                name: replace(part, source=part.source.for_validation(), limit=None)
                for name, part in self.parts.items()
            },
        )

    def describe(self, split: str) -> str:
        """Return the names of the parts."""
        return " + ".join(self.parts)

    def mixed_parts(self) -> Mapping[str, Part]:
        """Return the parts by their names."""
        return self.parts

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield parts that are incomplete."""
        if len(self.parts) < 2:
            yield f"dataset=mixture needs two parts or more under {prefix}parts."
        for name, part in self.parts.items():
            if isinstance(part.source, Source) and part.source.for_test() is not None:
                yield f"{prefix}parts.{name}.source.test has no effect: a mixture has no test split."
            for key, value in (("source", part.source), ("task", part.task)):
                if value is None:
                    yield f"{prefix}parts.{name}.{key} is missing: a part has a source and a task."


def texts_in(values: Mapping[str, Any], key: str) -> Iterator[str]:
    """Yield a message for each value that is not a text, a list of texts or None."""
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if not all(item is None or (isinstance(item, str) and item) for item in items):
            yield f"{key}.{name}={value}: expected a name."
