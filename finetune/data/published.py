"""Sources of published datasets: the Hub's, and benchmarks with their official files."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from finetune.data.options import OnError, Source, texts_in
from finetune.option import Range, option


@dataclass
class HubObjects:
    """The columns of a Hub dataset's boxes."""

    boxes: str | None = None
    """Column of the boxes, such as `objects.bbox`: four numbers each. `null`: no boxes."""
    labels: str | None = None
    """Column of their classes, such as `objects.category`: names, or class numbers that the dataset's
    features name."""
    layout: str = "xywh"
    """Order of the four numbers: xywh, xyxy, cxcywh or yxyx."""
    relative: bool = False
    """The numbers are fractions of width and height instead of pixels."""


@dataclass
class HubSource(Source):
    """A dataset in parquet on the Hub, or a folder of parquet files."""

    loader = "finetune.data.hub:load_hub"

    path: str | None = None
    """Hub id or local folder."""
    name: str | None = None
    """Configuration of the dataset, if it has several."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    train: str | None = "train"
    """Split to train on; slices such as `validation[:-1000]` and sums such as `train+validation` are
    allowed. `null`: none, to evaluate only."""
    validation: str = "validation"
    """Split to evaluate on."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Column name here -> name in the dataset, such as `{question: query, answers: label}`. `image`, `id`
    and `group` may be missing: without an id rows are numbered. Answers may be a string, a list of strings,
    or a list of objects with an `answer`."""
    data_files: dict[str, Any] = field(default_factory=dict)
    """Split -> files, if its card does not list them."""
    objects: HubObjects = field(default_factory=HubObjects)

    def for_validation(self) -> "HubSource":
        """Return the source without `train`."""
        return replace(self, train=None)

    def describe(self, split: str) -> str:
        """Return the dataset and the split."""
        return f"{self.path} {self.train if split == 'train' else self.validation}"

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield invalid names of columns and of files."""
        yield from texts_in(self.columns, f"{prefix}columns")
        yield from texts_in(self.data_files, f"{prefix}data_files")

    @property
    def has_train(self) -> bool:
        """Whether there is a training split."""
        return self.train is not None


@dataclass
class Hub(HubSource):
    """Any dataset in parquet, on the Hub or in a folder, by the names of its columns."""

    validation_fraction: float | None = option(None, Range(0, 1, above_least=True, below_most=True))
    """Share of `train` to hold out in place of the split `validation`, if there is no such split."""
    test: str | None = None
    """Split to score once, with the final model: nothing is chosen by it."""

    def for_validation(self) -> "HubSource":
        """Return the source without `train`, or unchanged if it holds out a share."""
        return self if self.validation_fraction is not None else super().for_validation()

    def for_test(self) -> "HubSource | None":
        """Return the source with the test split in place of the validation split."""
        if self.test is None:
            return None
        return replace(self, train=None, validation=self.test, validation_fraction=None, test=None)

    def describe(self, split: str) -> str:
        """Return the dataset and the split."""
        if split == "test":
            return f"{self.path} {self.test or self.validation}"
        held_out = self.validation_fraction is not None
        return f"{self.path} {self.train if held_out or split == 'train' else self.validation}"

    def problems(self, prefix: str) -> Iterator[str]:
        """Also yield a share of no split, or next to another split."""
        yield from super().problems(prefix)
        if self.validation_fraction is not None and self.train is None:
            yield f"{prefix}validation_fraction is a share of {prefix}train, which is null."
        if self.validation_fraction is not None and self.validation != Hub.validation:
            yield (
                f"{prefix}validation={self.validation} and {prefix}validation_fraction="
                f"{self.validation_fraction} are both given: add {prefix}validation_fraction=null."
            )


@dataclass
class Release(Source):
    """A published benchmark: its official files under `root`, or a copy on the Hub."""

    loader = "finetune.data.release:load_release"

    release: str | None = None
    """Name of a file in `finetune/data/releases/`."""
    root: str | None = None
    """Folder with the release's own file names, as its page or docs/data.md lists them. `null`: the copy on
    the Hub."""
    train: str | None = "train"
    """Official split to train on; slices and sums such as `train+val[:90%]` are allowed. `null`: none,
    to evaluate only."""
    validation: str = "val"
    """Official split to evaluate on."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of this release; see its file."""
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""
    hub: HubSource = field(default_factory=HubSource)

    def for_validation(self) -> "Source":
        """Return the benchmark without a training split."""
        return replace(self, train=None, hub=self.hub.for_validation())

    def describe(self, split: str) -> str:
        """Return the benchmark and its split."""
        return f"{self.release} {self.train if split == 'train' else self.validation}"

    @property
    def has_train(self) -> bool:
        """Whether there is a training split."""
        return self.train is not None

    @property
    def skips_faults(self) -> bool | None:
        """Whether rows with faults are left out."""
        return self.on_error == OnError.skip

    @property
    def benchmark(self) -> str | None:
        """The benchmark's name."""
        return self.release


@dataclass
class Vqav2Files:
    """The official files of one VQAv2 split."""

    questions: str | None = None
    """`v2_OpenEnded_mscoco_*_questions.json`."""
    annotations: str | None = None
    """`v2_mscoco_*_annotations.json`."""
    image_dir: str | None = None
    """Folder of `COCO_<subset>_<image id>.jpg`."""


@dataclass
class Vqav2(Source):
    """VQAv2: the official files (`root=`, or file by file), or a copy on the Hub."""

    loader = "finetune.data.release:load_vqav2"

    root: str | None = None
    """Folder with the release's own file names: questions, annotations, `train2014/`, `val2014/`."""
    train: Vqav2Files = field(default_factory=Vqav2Files)
    validation: Vqav2Files = field(default_factory=Vqav2Files)
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""
    hub: HubSource = field(default_factory=HubSource)

    def for_validation(self) -> "Source":
        """Return the benchmark without its training split."""
        if self.root is not None:
            return self.as_release().for_validation()
        return replace(self, train=Vqav2Files(), hub=self.hub.for_validation())

    def as_release(self) -> Release:
        """Return the benchmark as a `Release` by its folder."""
        return Release("vqav2", self.root, on_error=self.on_error, hub=self.hub)

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that are missing, or given in two ways."""
        files = {
            f"{prefix}{split}.{name}": value
            for split, part in (("train", self.train), ("validation", self.validation))
            for name, value in vars(part).items()
        }
        missing = [key for key, value in files.items() if value is None]
        if 0 < len(missing) < len(files):
            yield f"VQAv2 by files needs all six; missing: {', '.join(missing)}."
        if len(missing) == len(files) and not self.root and not self.hub.path:
            yield f"VQAv2 needs {prefix}root=FOLDER, the six files, or {prefix}hub.path."
        if self.root and len(missing) < len(files):
            yield f"{prefix}root already names the files: leave {prefix}train and .validation out."

    @property
    def skips_faults(self) -> bool | None:
        """Whether rows with faults are left out."""
        return self.on_error == OnError.skip
