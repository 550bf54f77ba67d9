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
    """Readings of VQA accuracy."""

    official = "official"
    normalised = "normalised"
    n_of_3 = "n_of_3"


@dataclass
class VqaAccuracyMetric:
    """VQA accuracy over ten annotators, in percent."""

    _target_: str = "finetune.metrics.vqa.VqaAccuracy"
    convention: VqaConvention = VqaConvention.official
    """`official` normalises only where the annotators disagree, `normalised` always; `n_of_3` is
    min(1, agreeing / 3) without either, as big_vision scores OK-VQA, A-OKVQA and VizWiz."""
    lower: bool = False
    """Lower-case the prediction first."""


@dataclass
class AnyMatchMetric:
    """Share of predictions equal to any reference, in percent."""

    _target_: str = "finetune.metrics.text.AnyMatch"
    lower: bool = False
    """Compare in lower case."""


class AnlsConvention(StrEnum):
    """Readings of ANLS."""

    rrc = "rrc"
    paper = "paper"


@dataclass
class AnlsMetric:
    """Average normalised Levenshtein similarity, 0 to 1."""

    _target_: str = "finetune.metrics.anls.Anls"
    convention: AnlsConvention = AnlsConvention.rrc
    """`rrc`: the challenge's server, which keeps 0.5. `paper`: big_vision's, strictly above 0.5."""


@dataclass
class RelaxedAccuracyMetric:
    """ChartQA's accuracy with numbers within 5 %, in percent; also the mean over the groups."""

    _target_: str = "finetune.metrics.relaxed.RelaxedAccuracy"
    strip: bool = False
    """Ignore white space around the prediction."""
    case_sensitive: bool = False
    """Compare strings with their case."""


class CaptionTokenizer(StrEnum):
    """Tokenizers of captions."""

    ptb_like = "ptb_like"
    whitespace = "whitespace"
    ptb = "ptb"


@dataclass
class CaptionMetric:
    """CIDEr-D (0 to 10), BLEU-1 to 4 and ROUGE-L (0 to 1) as COCO computes them."""

    _target_: str = "finetune.metrics.caption.Caption"
    tokenizer: CaptionTokenizer = CaptionTokenizer.ptb_like
    """`ptb_like` follows Stanford's tokenizer without Java; `ptb` is the original and needs Java and
    `pip install 'finetune-paligemma[ptb]'`."""


@dataclass
class EditMetric:
    """Error rates over characters and words of the whole set; 0 is perfect."""

    _target_: str = "finetune.metrics.edit.EditRate"
    strip: bool = True
    """Ignore white space at both ends."""


@dataclass
class CountingMetric:
    """Counts: accuracy and share within 1 in percent, and mean absolute error."""

    _target_: str = "finetune.metrics.counting.Counting"


class ChoiceReading(StrEnum):
    """Readings of a multiple-choice answer."""

    lenient = "lenient"
    letter = "letter"
    sentence = "sentence"


@dataclass
class ChoiceMetric:
    """Multiple choice: accuracy, and the share of unreadable answers, in percent."""

    _target_: str = "finetune.metrics.choice.Choice"
    reading: ChoiceReading = ChoiceReading.lenient
    """`lenient`: a letter or a sentence in any usual form; `letter` or `sentence`: only that."""


class YesNoReading(StrEnum):
    """Readings of a yes or no."""

    official = "official"
    exact = "exact"


@dataclass
class YesNoMetric:
    """POPE: accuracy, precision, recall and F1 of yes, and the share of yes, in percent."""

    _target_: str = "finetune.metrics.yes_no.YesNo"
    reading: YesNoReading = YesNoReading.official
    """`official`: anything that is no `no` is a yes. `exact`: only `yes` and `no` count."""


@dataclass
class PairAccuracyMetric:
    """Share of pairs (rows of one group) with every answer right, in percent."""

    _target_: str = "finetune.metrics.pair.PairAccuracy"


class GroupedReading(StrEnum):
    """Readings of the answers under grouped accuracy."""

    exact = "exact"
    yes_no = "yes_no"


@dataclass
class GroupedAccuracyMetric:
    """Accuracy over all rows, and the mean over the groups, in percent."""

    _target_: str = "finetune.metrics.grouped.GroupedAccuracy"
    reading: GroupedReading = GroupedReading.exact
    """`exact`: equal strings. `yes_no`: POPE's official reading."""


class DetectionScore(StrEnum):
    """What orders the predicted boxes."""

    confidence = "confidence"
    constant = "constant"
    rank = "rank"


class Region(StrEnum):
    """What is compared."""

    box = "box"
    mask = "mask"


@dataclass
class DetectionMetric:
    """COCO's average precision and recall, 0 to 1; one row is one picture."""

    _target_: str = "finetune.metrics.detection.Detection"
    score: DetectionScore = DetectionScore.confidence
    """`confidence`: each object's `score`, or the row's `confidence`; `constant`: all the same; `rank`: the
    first object of each picture before the second of any. Ties go by picture, then by order."""
    divisor: int = 1023
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""
    region: Region = Region.box
    """`box` compares `box_xyxy`, `mask` compares `mask_rle`."""


@dataclass
class ReferringMetric:
    """Share of expressions whose box overlaps the true one by 0.5 and 0.75, and mean IoU, in percent."""

    _target_: str = "finetune.metrics.referring.Referring"
    divisor: int = 1023
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""


@dataclass
class SegmentationMetric:
    """Mean and cumulative IoU of masks, and the share above each threshold, in percent."""

    _target_: str = "finetune.metrics.segmentation.Segmentation"


GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {"digits": DigitsDataset, "jsonl": JsonlDataset, "vqav2": Vqav2Dataset},
    "task": {"text": TextTask},
    "metric": {
        "any_match": AnyMatchMetric,
        "anls": AnlsMetric,
        "caption": CaptionMetric,
        "choice": ChoiceMetric,
        "counting": CountingMetric,
        "detection": DetectionMetric,
        "edit": EditMetric,
        "exact_match": ExactMatchMetric,
        "grouped_accuracy": GroupedAccuracyMetric,
        "pair_accuracy": PairAccuracyMetric,
        "referring": ReferringMetric,
        "relaxed_accuracy": RelaxedAccuracyMetric,
        "segmentation": SegmentationMetric,
        "vqa_accuracy": VqaAccuracyMetric,
        "yes_no": YesNoMetric,
    },
}
"""Groups whose options differ from choice to choice: choice -> schema, merged under `conf/`'s file."""
