"""Doubts about texts: no answers at all, answers to another metric, nearly equal ones."""

from collections.abc import Mapping

from finetune.metrics.doubts import Doubt, Level, Tally
from finetune.metrics.fields import read_text

_SAMPLE = 100
"""Rows that are looked at closely."""


class TextDoubts:
    """Looks at predictions and references that are texts.

    Args:
        main_field: the score that tells whether anything is right at all; None where there is none.
    """

    def __init__(self, main_field: str | None) -> None:
        self.main_field = main_field
        self._seen = 0
        self._blank = 0
        self._written_boxes = Tally()
        self._nearly_equal = Tally()
        self._missing = Tally()
        self._first = Tally()

    def see(self, row: Mapping[str, object]) -> None:
        """Look at one row."""
        self._seen += 1
        value = row.get("prediction")
        if value is None and "prediction" in row:
            self._missing.add(row, value)
        prediction = "" if value is None else read_text(value)
        if prediction is None:
            return
        self._blank += not prediction or prediction.isspace()
        references = row.get("references")
        # A custom metric may have references of another kind.
        if self._seen > _SAMPLE:
            return
        texts = map(read_text, references if isinstance(references, list) else [references])
        accepted = [text for text in texts if text is not None]
        if not accepted:
            return
        pair = {"prediction": prediction, "references": accepted}
        self._first.add(row, pair)
        if prediction not in accepted and _loosen(prediction) in map(_loosen, accepted):
            self._nearly_equal.add(row, pair)
        if any("<loc" in one for one in accepted):
            self._written_boxes.add(row, accepted[0])

    def conclude(self, scores: Mapping[str, object]) -> list[Doubt]:
        """Return the doubts about the whole set."""
        return [*self._doubt_missing(), *self._doubt_texts(scores)]

    def _doubt_missing(self) -> list[Doubt]:
        if not (missing := self._missing).count:
            return []
        text = f"{missing.count} predictions are null and are scored as empty answers; the first is "
        return [Doubt(f"{text}{missing.example}.", Level.note)]

    def _doubt_texts(self, scores: Mapping[str, object]) -> list[Doubt]:
        sample = min(self._seen, _SAMPLE)
        if self._blank == self._seen:
            return [Doubt(f"all {self._seen} predictions are empty.")]
        if self._written_boxes.count == sample:
            return [
                Doubt(
                    "the references are boxes that are written as text and are compared as text; "
                    "metric=detection compares `objects` and `prediction_objects` (in training with "
                    f"task=box_text). The first is {self._written_boxes.example}."
                )
            ]
        if self.main_field is None or scores.get(self.main_field) != 0 or not self._first.count:
            return []
        near = self._nearly_equal
        if near.count:
            return [
                Doubt(
                    f"{self.main_field} is 0, but {near.count} of the first {sample} predictions differ "
                    "from a reference in case or outer spaces only (metric.lower=true and "
                    "metric.strip=true ignore these, where the metric has them), such as "
                    f"{near.example}."
                )
            ]
        return [
            Doubt(f"{self.main_field} is 0: no prediction is right. The first is {self._first.example}.")
        ]


def _loosen(text: str) -> str:
    return text.strip().lower()
