"""The options of the groups that differ from choice to choice: dataset, task and metric.

`_target_` names the function or class that takes the other fields as its arguments.
"""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass
class TextTask:
    """Text in, text out."""

    _target_: str = "finetune.tasks.text.TextTask"
    prompt: str = "{prefix}"
    """The prefix, with the row's columns in braces, such as `answer en {question}`."""
    answers: str = "suffixes"
    """The column that holds the accepted suffixes."""
    lower: bool = False
    """Lower-case the suffixes."""


@dataclass
class DigitsDataset:
    """scikit-learn's 1,797 handwritten digits: 1,500 to train on, 297 to test."""

    _target_: str = "finetune.data.digits.load_digits"
    size: int = 56
    """Side in pixels to which the 8x8 scans are enlarged."""


@dataclass
class JsonlDataset:
    """One JSON object a line: `image`, `prefix`, `suffix`, optional `id` and `group`."""

    _target_: str = "finetune.data.jsonl.load_jsonl"
    train: str | None = None
    """The file to train on."""
    validation: str | None = None
    """The file to evaluate on; instead of it, `validation_fraction`."""
    validation_fraction: float | None = None
    """Share of `train` that is held out, between 0 and 1. Rows that share a picture stay together."""
    image_dir: str | None = None
    """Folder of the pictures. Null: the folder of the JSONL file."""


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
class HubColumns:
    """Names of a Hub dataset's columns."""

    image: str = "image"
    """The picture."""
    question: str = "question"
    """The question."""
    answers: str = "answers"
    """A string, a list of strings, or a list of objects with an `answer`."""
    id: str | None = None
    """A unique id. Null: the row number."""
    group: str | None = None
    """Scores are also reported for each value of this column."""


@dataclass
class HubSource:
    """A dataset in parquet on the Hub, or a folder of parquet files."""

    path: str | None = None
    """Hub id or local folder."""
    name: str | None = None
    """The dataset's configuration, where it has several."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    train: str = "train"
    """Split to train on; slices such as `validation[:-1000]` are allowed."""
    validation: str = "validation"
    """Split to evaluate on."""
    columns: HubColumns = field(default_factory=HubColumns)


@dataclass
class Vqav2Dataset:
    """VQAv2: the official files (`root=`, or file by file), or a copy on the Hub."""

    _target_: str = "finetune.data.vqav2.load_vqav2"
    root: str | None = None
    """Folder with the release's own file names: questions, annotations, `train2014/`, `val2014/`."""
    train: Vqav2Files = field(default_factory=Vqav2Files)
    validation: Vqav2Files = field(default_factory=Vqav2Files)
    hub: HubSource = field(default_factory=HubSource)


@dataclass
class ExactMatchMetric:
    """Share of predictions equal to one of the references, in percent."""

    _target_: str = "finetune.metrics.text.ExactMatch"
    lower: bool = False
    """Compare in lower case."""
    strip: bool = False
    """Ignore white space at both ends."""


class VqaConvention(StrEnum):
    """The two readings of VQA accuracy."""

    official = "official"
    normalised = "normalised"


@dataclass
class VqaAccuracyMetric:
    """VQA accuracy over ten annotators, in percent."""

    _target_: str = "finetune.metrics.vqa.VqaAccuracy"
    convention: VqaConvention = VqaConvention.official
    """`official` normalises only where the annotators disagree; `normalised` always does."""
    lower: bool = False
    """Lower-case the prediction first."""


GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {"digits": DigitsDataset, "jsonl": JsonlDataset, "vqav2": Vqav2Dataset},
    "task": {"text": TextTask},
    "metric": {"exact_match": ExactMatchMetric, "vqa_accuracy": VqaAccuracyMetric},
}
"""Groups whose options differ from choice to choice: choice -> schema, merged under `conf/`'s file."""
