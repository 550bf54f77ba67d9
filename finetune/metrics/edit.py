"""Character and word error rate of text that is read from an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rapidfuzz.distance import Levenshtein

from finetune.metrics.fields import read_prediction, read_references


@dataclass(frozen=True)
class Edits:
    """How far a prediction is from its reference."""

    distance: int
    """Insertions, deletions and substitutions."""
    length: int
    """Of the reference, in the same unit."""

    @property
    def rate(self) -> float:
        """Edits per unit of the reference; above 1 where the prediction is longer.

        An empty reference counts as one unit: the rate is then the number of insertions, as in jiwer.
        """
        return self.distance / max(self.length, 1)


def count_edits(prediction: str, references: Sequence[str], *, words: bool, strip: bool = True) -> Edits:
    """Count the edits from the nearest reference: the one with the lowest rate, the first of several.

    Args:
        prediction: the text read.
        references: the accepted texts.
        words: count words, separated by white space, instead of characters.
        strip: ignore white space at both ends.
    """

    def split(text: str) -> Sequence[str]:
        text = text.strip() if strip else text
        return text.split() if words else text

    answer = split(prediction)
    candidates = [split(reference) for reference in references]
    return min(
        (Edits(Levenshtein.distance(text, answer), len(text)) for text in candidates),
        key=lambda edits: edits.rate,
    )


@dataclass(frozen=True)
class EditRate:
    """Error rates over characters and words of the whole set: edits divided by the references' length.

    0 is perfect, and there is no upper end. Long texts weigh more than short ones; the mean of the rows'
    rates is a different number.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"cer": False, "wer": False}

    strip: bool = True
    """Ignore white space at both ends, as jiwer does."""

    def score(self, row: Mapping[str, object]) -> float:
        """Return the row's character error rate."""
        return self._count(row, words=False).rate

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `cer` and `wer`."""
        return {"cer": self._rate(rows, words=False), "wer": self._rate(rows, words=True)}

    def _count(self, row: Mapping[str, object], words: bool) -> Edits:
        return count_edits(read_prediction(row), read_references(row), words=words, strip=self.strip)

    def _rate(self, rows: Sequence[Mapping[str, object]], words: bool) -> float:
        edits = [self._count(row, words) for row in rows]
        return Edits(sum(row.distance for row in edits), sum(row.length for row in edits)).rate
