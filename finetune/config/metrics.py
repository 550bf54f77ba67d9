"""The options of the metrics; `_target_` names the class that takes them."""

from dataclasses import dataclass
from enum import StrEnum

from finetune.option import OneOf, option


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
    """COCO's average precision and recall, 0 to 1, or -1 where the set has no object of the size."""

    _target_: str = "finetune.metrics.detection.Detection"
    score: DetectionScore = DetectionScore.confidence
    """`confidence`: each object's `score`, or the row's `confidence`; `constant`: all the same; `rank`: the
    first object of each picture before the second of any. Ties go by picture, then by order."""
    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""
    region: Region = Region.box
    """`box` compares `box_xyxy`, `mask` compares `mask_rle`."""
    mask_vae: str | None = None
    """Weights of the mask codec, where masks are read from text: `published`, or a file."""


@dataclass
class ReferringMetric:
    """Share of expressions whose box overlaps the true one by 0.5 and 0.75, and mean IoU, in percent."""

    _target_: str = "finetune.metrics.referring.Referring"
    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""


class SegmentationReading(StrEnum):
    """Readings of an answer with a mask."""

    lenient = "lenient"
    official = "official"


@dataclass
class SegmentationMetric:
    """Mean and cumulative IoU of masks, and the share above each threshold, in percent."""

    _target_: str = "finetune.metrics.segmentation.Segmentation"
    divisor: int = option(1023, OneOf((1023, 1024)))
    """What location tokens are divided by where objects are read from text: 1023, or 1024."""
    mask_vae: str | None = None
    """Weights of the mask codec, where masks are read from text: `published`, or a file."""
    reading: SegmentationReading = SegmentationReading.lenient
    """`lenient` unites the masks of all objects that can be read, and puts exchanged corners right.
    `official` is big_vision's: the answer must begin with one box and its mask, minima before maxima, and
    nothing after it counts."""
