"""The options of the datasets; `_target_` names the function that takes them."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class OnError(StrEnum):
    """What a fault in the data does."""

    error = "error"
    skip = "skip"


@dataclass
class OwnFiles:
    """What every format of one's own files has."""

    train: str | None = None
    """File or folder to train on."""
    validation: str | None = None
    """File or folder to evaluate on; instead of it, `validation_fraction`."""
    validation_fraction: float | None = None
    """Share of `train` that is held out, between 0 and 1. Rows that share a picture stay together."""
    image_dir: str | None = None
    """Folder of the pictures. Null: the folder of the file that names them."""
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""


@dataclass
class JsonlDataset(OwnFiles):
    """One JSON object a line: `image` (or a list of them), `prefix`, `suffix`, maybe `id`, `group`."""

    _target_: str = "finetune.data.formats.jsonl.load_jsonl"


@dataclass
class DigitsDataset:
    """scikit-learn's 1,797 handwritten digits: 1,500 to train on, 297 to test."""

    _target_: str = "finetune.data.digits.load_digits"
    size: int = 56
    """Side in pixels to which the 8x8 scans are enlarged."""


@dataclass
class CanvasDataset:
    """Handwritten digits composed on a canvas, with exact boxes and masks."""

    _target_: str = "finetune.data.canvas.load_canvases"
    train: int = 4000
    """Canvases to train on, from the scans that `digits` trains on."""
    validation: int = 200
    """Canvases to evaluate on, from the others."""
    size: int = 56
    """Side of a canvas, pixels."""
    digits: int = 2
    """The most digits on one canvas."""


@dataclass
class MixtureDataset:
    """Several sources in one run, each with its own task."""

    _target_: str = "finetune.data.mixture.mix_splits"
    parts: dict[str, Any] = field(default_factory=dict)
    """Name -> `source` (a dataset), `task`, and if wanted `weight` (its share of the examples drawn;
    default: as many as it has) and `limit` (train on its first n). The parts are scored as groups."""


@dataclass
class HubObjects:
    """Where a Hub dataset has its boxes."""

    boxes: str | None = None
    """Column of the boxes, such as `objects.bbox`: four numbers each. Null: there are none."""
    labels: str | None = None
    """Column of their classes, such as `objects.category`: names, or class numbers with names in the
    dataset's features."""
    layout: str = "xywh"
    """Order of the four numbers: xywh, xyxy, cxcywh or yxyx."""
    relative: bool = False
    """They are shares of width and height instead of pixels."""


@dataclass
class HubSource:
    """A dataset in parquet on the Hub, or a folder of parquet files."""

    path: str | None = None
    """Hub id or local folder."""
    name: str | None = None
    """The dataset's configuration, where it has several."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    train: str | None = "train"
    """Split to train on; slices such as `validation[:-1000]` and sums such as `train+validation` are
    allowed. Null: none, to evaluate only."""
    validation: str = "validation"
    """Split to evaluate on."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Our name -> the dataset's, such as `{question: query, answers: label}`. `image`, `id` and `group`
    need not be there: without an id rows are numbered. Answers may be a string, a list of strings, or
    of objects with an `answer`."""
    data_files: dict[str, Any] = field(default_factory=dict)
    """Split -> files, where the dataset has files that its card does not list."""
    objects: HubObjects = field(default_factory=HubObjects)


@dataclass
class HubDataset(HubSource):
    """Any dataset in parquet, on the Hub or in a folder, by the names of its columns."""

    _target_: str = "finetune.data.hub.load_hub"


@dataclass
class ReleaseDataset:
    """A published benchmark: its official files under `root`, or a copy on the Hub."""

    _target_: str = "finetune.data.release.load_release"
    release: str | None = None
    """Which one: the name of a file in `finetune/data/releases/`."""
    root: str | None = None
    """Folder with the release's own file names, as its page or docs/data.md lays them out. Null: the copy
    on the Hub."""
    train: str | None = "train"
    """Official split to train on; slices and sums such as `train+val[:90%]` are allowed. Null: none, to
    evaluate only."""
    validation: str = "val"
    """Official split to evaluate on."""
    options: dict[str, Any] = field(default_factory=dict)
    """The release's own: see its file."""
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""
    hub: HubSource = field(default_factory=HubSource)


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
class Vqav2Dataset:
    """VQAv2: the official files (`root=`, or file by file), or a copy on the Hub."""

    _target_: str = "finetune.data.releases.vqav2.load_vqav2"
    root: str | None = None
    """Folder with the release's own file names: questions, annotations, `train2014/`, `val2014/`."""
    train: Vqav2Files = field(default_factory=Vqav2Files)
    validation: Vqav2Files = field(default_factory=Vqav2Files)
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""
    hub: HubSource = field(default_factory=HubSource)
