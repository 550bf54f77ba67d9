"""VQA accuracy: agreement with ten annotators.

Source: the official evaluator (GT-Vision-Lab/VQA, HEAD a013f004), which big_vision's `vqav2` evaluator
repeats; its quirks are kept, because published numbers have them. `n_of_3` is big_vision's `vqa` evaluator.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar

from finetune.errors import UserError
from finetune.metrics.fields import check_choices, name_row, read_prediction, read_references
from finetune.metrics.metric import mean_score

ANNOTATORS = 10

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"(\d)(\,)(\d)")
# Written to spare decimal points, but `(?!<=` is no look-behind: it spares any period before a digit.
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_MOST_PERIODS = int(re.UNICODE)  # the official call passes the flag as `count`
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}

# Written forms that are restored where one apostrophe is missing.
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd "
    "you'd've you'll you're you've"
).split()


def _without_one_apostrophe(word: str) -> list[str]:
    places = [place for place, letter in enumerate(word) if letter == "'"]
    return [word[:place] + word[place + 1 :] for place in places]


_RESTORED = {short: word for word in _CONTRACTIONS for short in _without_one_apostrophe(word)}
_RESTORED["somebody'd"] = "somebodyd"  # the official table has this one the wrong way round


@lru_cache(maxsize=1 << 16)  # annotators repeat themselves, and each other
def normalize_answer(answer: str) -> str:
    """Apply the evaluator's rules on punctuation, articles, number words and contractions."""
    text = answer
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        if beside_space or _COMMA_IN_NUMBER.search(answer):
            text = text.replace(mark, "")
        else:
            text = text.replace(mark, " ")
    text = _PERIOD.sub("", text, count=_MOST_PERIODS)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def score_vqa_accuracy(
    prediction: str, references: Sequence[str], *, always_normalize: bool = False
) -> float:
    """Score one prediction against ten annotators: 0 to 100.

    The mean, over the ten ways to leave one annotator out, of min(1, agreeing / 3). Where all ten agree to
    the letter, the official evaluator compares the strings as they are, case and all; `always_normalize`
    normalises them too.
    """
    answers = [_one_line(reference) for reference in references]
    answer = _one_line(prediction)
    if always_normalize or len(set(answers)) > 1:
        answers = [normalize_answer(reference) for reference in answers]
        answer = normalize_answer(answer)
    equal = [answer == reference for reference in answers]
    # Left out by position: two annotators may have given the same answer.
    kept = [min(1.0, (sum(equal) - is_equal) / 3) for is_equal in equal]
    return 100.0 * sum(kept) / len(kept)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def score_n_of_3(prediction: str, references: Sequence[str], *, lower: bool = False) -> float:
    """Score one prediction by the number of annotators who gave it: min(1, n / 3), times 100.

    The rule of OK-VQA, A-OKVQA's direct answers and VizWiz: nobody is left out, nothing is normalised.

    Source: big_vision evaluators/proj/paligemma/transfers/vqa.py (`acc`).
    """
    answer = prediction.lower() if lower else prediction
    agreeing = sum(answer == (reference.lower() if lower else reference) for reference in references)
    return 100.0 * min(1.0, agreeing / 3)


class VqaConvention(StrEnum):
    """Readings of VQA accuracy."""

    official = "official"
    normalised = "normalised"
    n_of_3 = "n_of_3"


@dataclass(frozen=True)
class VqaAccuracy:
    """VQA accuracy over ten annotators, in percent."""

    higher_is_better: ClassVar[Mapping[str, bool]] = {"vqa_accuracy": True}

    convention: VqaConvention = VqaConvention.official
    """`official` normalises only where the annotators disagree, `normalised` always; `n_of_3` is
    min(1, agreeing / 3) without either, as big_vision scores OK-VQA, A-OKVQA and VizWiz, and takes any
    number of annotators."""
    lower: bool = False
    """Lower-case the prediction first; under `n_of_3` the references too."""

    def __post_init__(self) -> None:
        check_choices(self)

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 to 100."""
        prediction, references = read_prediction(row), read_references(row)
        if self.convention == VqaConvention.n_of_3:
            return score_n_of_3(prediction, references, lower=self.lower)
        if len(references) != ANNOTATORS:
            raise UserError(
                f"{name_row(row)}: VQA accuracy needs {ANNOTATORS} references, but it has "
                f"{len(references)}. With other numbers of references: metric.convention=n_of_3 or "
                "metric=exact_match."
            )
        always = self.convention == VqaConvention.normalised
        answer = prediction.lower() if self.lower else prediction
        return score_vqa_accuracy(answer, references, always_normalize=always)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `vqa_accuracy`."""
        return {"vqa_accuracy": mean_score(self, rows)}
