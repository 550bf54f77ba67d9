"""The options of the datasets; `_target_` names the function that takes them."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from finetune.option import Range, option


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
    validation_fraction: float | None = option(None, Range(0, 1, above_least=True, below_most=True))
    """Share of `train` that is held out, between 0 and 1. Rows that share a picture stay together."""
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""


@dataclass
class NamedPictures(OwnFiles):
    """What every format has whose files name pictures that lie beside them."""

    image_dir: str | None = None
    """Folder of the pictures. Null: the folder of the file that names them."""


@dataclass
class JsonlDataset(NamedPictures):
    """One JSON object a line: `image` (or a list of them), `prefix`, `suffix`, maybe `id`, `group`."""

    _target_: str = "finetune.data.formats.jsonl.load_jsonl"


@dataclass
class ConversationsDataset(NamedPictures):
    """LLaVA's JSON, ShareGPT or chat messages: each question and answer is an example of its own."""

    _target_: str = "finetune.data.formats.conversations.load_conversations"
    ignore_system: bool = False
    """Leave system turns out, for which PaliGemma has no place; else they are faults."""


@dataclass
class TableDataset(NamedPictures):
    """CSV, TSV or parquet, by the names of the columns; every value stays the text that it is."""

    _target_: str = "finetune.data.formats.table.load_table"
    columns: dict[str, Any] = field(default_factory=dict)
    """Our name -> the file's, where they differ, such as `{image: path, answers: label}`."""
    separator: str | None = None
    """Divides `answers`, `captions`, `suffix` and `choices` into several texts, such as `|`."""


@dataclass
class ImageFolderDataset(NamedPictures):
    """Pictures with a metadata.jsonl, .csv or .parquet: `file_name` and texts, a caption or `objects`."""

    _target_: str = "finetune.data.formats.image_folder.load_image_folder"
    names: list[str] | None = None
    """The classes in their order, where `objects.categories` are numbers from 0."""


@dataclass
class WebdatasetDataset(OwnFiles):
    """Tar shards: KEY.jpg with KEY.json (`prefix`, `suffix`) or with KEY.txt (a caption)."""

    _target_: str = "finetune.data.formats.webdataset.load_webdataset"


@dataclass
class CocoDataset(NamedPictures):
    """COCO's JSON with boxes, polygons or run lengths."""

    _target_: str = "finetune.data.formats.coco.load_coco"


@dataclass
class VocDataset(NamedPictures):
    """Pascal VOC: `Annotations/*.xml` and `JPEGImages/`, or XML files beside the pictures."""

    _target_: str = "finetune.data.formats.voc.load_voc"
    one_based: bool = False
    """The first pixel is 1 and the last belongs to the box, as in VOC's own releases; most tools count
    from 0."""


@dataclass
class YoloDataset(NamedPictures):
    """YOLO's data.yaml with boxes or polygons."""

    _target_: str = "finetune.data.formats.yolo.load_yolo"
    validation: str | None = None
    """The data.yaml whose `val` is evaluated on. Null: that of `train`, unless `validation_fraction`."""
    image_dir: str | None = None
    """Folder that stands for the file's `path`, where that is of another machine."""


@dataclass
class DigitsDataset:
    """scikit-learn's 1,797 handwritten digits: 1,500 to train on, 297 to test."""

    _target_: str = "finetune.data.shipped.digits.load_digits"
    size: int = option(56, Range(8, 4096))
    """Side in pixels to which the 8x8 scans are enlarged."""


@dataclass
class CanvasDataset:
    """Handwritten digits composed on a canvas, with exact boxes and masks."""

    _target_: str = "finetune.data.shipped.canvas.load_canvases"
    train: int = option(4000, Range(1, 1e6))
    """Canvases to train on, from the scans that `digits` trains on."""
    validation: int = option(200, Range(1, 1e6))
    """Canvases to evaluate on, from the others."""
    size: int = option(56, Range(8, 4096))
    """Side of a canvas, pixels."""
    digits: int = option(2, Range(1, 100))
    """The most digits on one canvas."""


GROUP_OF_PART = {"source": "dataset", "task": "task"}
"""What a mixture's part is described by -> the group whose choices it takes."""


@dataclass
class MixtureDataset:
    """Several sources in one run, each with its own task."""

    _target_: str = "finetune.data.examples.mixture.mix_splits"
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

    _target_: str = "finetune.data.release.load_vqav2"
    root: str | None = None
    """Folder with the release's own file names: questions, annotations, `train2014/`, `val2014/`."""
    train: Vqav2Files = field(default_factory=Vqav2Files)
    validation: Vqav2Files = field(default_factory=Vqav2Files)
    on_error: OnError = OnError.error
    """A fault in the data is an `error`; or `skip`: it is left out, counted, and listed in the run's
    `skipped.jsonl`."""
    hub: HubSource = field(default_factory=HubSource)
