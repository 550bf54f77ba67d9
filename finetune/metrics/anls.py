"""ANLS: average normalized Levenshtein similarity, for answers that are read off a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from rapidfuzz.distance import Levenshtein

from finetune.metrics.fields import check_choices, read_prediction, read_references
from finetune.metrics.metric import mean_score

THRESHOLD = 0.5


def score_anls_rrc(prediction: str, references: Sequence[str]) -> float:
    """Score one prediction as the Robust Reading Competition's server does: 0, or 0.5 to 1.

    The distance is between the lower-cased strings with white space collapsed, the length that divides
    it is of the strings as they came, and a similarity of exactly 0.5 is kept. The nearest
    reference counts.

    Source: the script of the DocVQA and InfographicVQA challenges, as in QwenLM/Qwen-VL
        eval_mm/infographicsvqa_eval.py.
    """

    def distance(reference: str) -> float:
        # The script measures upper-cased strings; `ß` grows by it.
        length = max(len(reference.upper()), len(prediction.upper()))
        return Levenshtein.distance(_collapse(reference), _collapse(prediction)) / length if length else 0.0

    similarity = 1.0 - min(distance(reference) for reference in references)
    return 0.0 if similarity < THRESHOLD else similarity


def score_anls_paper(prediction: str, references: Sequence[str]) -> float:
    """Score one prediction as the definition has it: case is ignored, white space counts, 0.5 does not.

    The nearest reference counts. The score is 0, or more than 0.5 and at most 1.

    Source: Biten et al. 2019, https://arxiv.org/abs/1907.00490, equation 1; big_vision
        evaluators/proj/paligemma/transfers/vqa.py (`anls`), also for an empty reference.
    """
    answer = prediction.lower()
    return max(_similarity(answer, reference.lower()) for reference in references)


def _similarity(answer: str, reference: str) -> float:
    if not reference:
        return float(not answer)
    distance = Levenshtein.distance(reference, answer) / max(len(reference), len(answer))
    return 1.0 - distance if distance < THRESHOLD else 0.0


def _collapse(text: str) -> str:
    return " ".join(text.lower().split())


class AnlsConvention(StrEnum):
    """Readings of ANLS."""

    rrc = "rrc"
    paper = "paper"


@dataclass(frozen=True)
class Anls:
    """Average normalized Levenshtein similarity, 0 to 1."""

    higher_is_better: ClassVar[Mapping[str, bool]] = {"anls": True}

    convention: AnlsConvention = AnlsConvention.rrc
    """`rrc`: the challenge's server, which keeps 0.5. `paper`: big_vision's, strictly above 0.5."""

    def __post_init__(self) -> None:
        check_choices(self)

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row: 0 to 1."""
        score_one = score_anls_rrc if self.convention == AnlsConvention.rrc else score_anls_paper
        return score_one(read_prediction(row), read_references(row))

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `anls`."""
        return {"anls": mean_score(self, rows)}
