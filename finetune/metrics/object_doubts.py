"""Doubts about boxes, masks and labels: other units, other layouts, other names, another model's syntax."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from finetune.metrics.doubts import Doubt, Level, Tally
from finetune.metrics.fields import read_box, read_objects, read_size
from finetune.metrics.layouts import find_layout
from finetune.metrics.metric import Compared

Box = tuple[float, float, float, float]

_SAMPLE = 50
"""Rows whose boxes are compared under other layouts."""

_SMALL_IMAGE = 4
"""Pixels of the longer side up to which a box within 0 and 1 may be meant."""

_OTHER_SYNTAX = re.compile(
    r"""["'](?:bbox_2d|box_2d|bbox|box|boxes|bboxes|point_2d|label)["']\s*:   # JSON: Qwen-VL, Gemini
    |<box>|<bbox>|<\|box_start\||<\|det\||<point|<points                     # Qwen-VL, DeepSeek-VL, Molmo
    |<loc_\d+>|<patch_index_\d+>|<bin_\d+>                                   # Florence, Kosmos, OFA
    |^\s*[\[(]\s*[\[(]?\s*-?[\d.]+\s*,\s*-?[\d.]+\s*,\s*-?[\d.]+\s*,""",  # bare lists of numbers
    re.VERBOSE,
)

_NO_OVERLAP = 0.1
"""Mean IoU below which boxes that fit in another layout cannot be meant as they are."""

_EXPECTED_BOX = "Expected x_min, y_min, x_max, y_max in pixels"
_EXPECTED_TEXT = (
    "Expected PaliGemma's `<locYMIN><locXMIN><locYMAX><locXMAX> label`, or `prediction_objects`"
)


class _BoxTally:
    """What the boxes of one side look like.

    Args:
        key: `objects` or `prediction_objects`.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.count = 0
        self.shares, self.inverted, self.empty = Tally(), Tally(), Tally()
        self.leaving, self.outside = Tally(), Tally()

    def see(self, row: Mapping[str, object], box: Box, size: tuple[int, int] | None) -> None:
        x0, y0, x1, y1 = box
        self.count += 1
        if x1 < x0 or y1 < y0:
            self.inverted.add(row, list(box))
        elif x1 == x0 or y1 == y0:
            self.empty.add(row, list(box))
        elif min(box) >= 0 and max(box) <= 1 and (size is None or max(size) > _SMALL_IMAGE):
            self.shares.add(row, list(box))
        elif size is not None:
            height, width = size
            if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
                self.outside.add(row, list(box))
            # Detectors overshoot an edge by a little.
            elif min(x0, width - x1) < -0.1 * width - 1 or min(y0, height - y1) < -0.1 * height - 1:
                self.leaving.add(row, list(box))

    def conclude(self, other_has_shares: bool) -> Iterable[Doubt]:
        # A model may err in single boxes; an annotated box without an area is never intended.
        annotated = self.key == "objects"
        if self.inverted.count:
            is_mistake = annotated or self.inverted.count == self.count
            yield self._doubt(
                self.inverted, "have a maximum below its minimum", is_mistake, "Is it inverted"
            )
        if self.empty.count and annotated:
            yield self._doubt(self.empty, "have no area", is_mistake=True)
        if self.shares.count:
            is_mistake = self.shares.count == self.count and not other_has_shares
            yield self._doubt(self.shares, "lie within 0 and 1, as shares of the image do", is_mistake)
        if self.outside.count:
            is_mistake = self.outside.count == self.count
            yield self._doubt(self.outside, "lie outside the image", is_mistake, "Is it of another size")
        if self.leaving.count:
            yield self._doubt(self.leaving, "leave the image", False, "Is it of another size")

    def _doubt(self, tally: Tally, fault: str, is_mistake: bool, question: str = "") -> Doubt:
        ask = f" {question}, or x, y, width, height?" if question else ""
        text = (
            f"{tally.count} of {self.count} boxes in `{self.key}` {fault}; the first in {tally.example}. "
            f"{_EXPECTED_BOX}.{ask}"
        )
        return Doubt(text, _level(is_mistake))


class ObjectDoubts:
    """Looks at `objects` and `prediction_objects`.

    Args:
        compared: what the metric compares.
    """

    def __init__(self, compared: Compared) -> None:
        self.compared = compared
        self._rows = 0
        self._true, self._predicted = _BoxTally("objects"), _BoxTally("prediction_objects")
        self._sample: list[tuple[list[Box], list[Box], tuple[int, int] | None]] = []
        self._true_labels: set[str] = set()
        self._predicted_labels: Counter[str] = Counter()
        self._objects = self._predictions = self._given = self._with_mask = 0
        self._without_area, self._large_area = Tally(), Tally()
        self._unread, self._other_syntax = Tally(), Tally()

    def see(self, row: Mapping[str, object]) -> None:
        """Look at one row.

        Raises:
            UserError: the row has no objects, or one has no box.
        """
        self._rows += 1
        true, predicted = read_objects(row, "objects"), read_objects(row, "prediction_objects")
        self._objects += len(true)
        self._predictions += len(predicted)
        self._with_mask += sum(one.get("mask_rle") is not None for one in predicted)
        if self.compared.labels:
            self._true_labels.update(_labels(true))
            self._predicted_labels.update(_labels(predicted))
        text = row.get("prediction")
        is_read = isinstance(text, str) and "<loc" in text
        self._given += 0 if is_read else len(predicted)
        if isinstance(text, str) and not predicted and text.strip():
            self._unread.add(row, text)
            if "<loc0" not in text and "<loc1" not in text and _OTHER_SYNTAX.search(text):
                self._other_syntax.add(row, text)
        if self.compared.boxes:
            self._see_boxes(row, true, predicted, is_read)

    def _see_boxes(
        self,
        row: Mapping[str, object],
        true: Sequence[Mapping[str, object]],
        predicted: Sequence[Mapping[str, object]],
        is_read: bool,
    ) -> None:
        size = read_size(row)
        true_boxes = [read_box(row, one) for one in true]
        predicted_boxes = [read_box(row, one) for one in predicted]
        for one, box in zip(true, true_boxes, strict=True):
            self._true.see(row, box, size)
            area = one.get("area")
            if area is None:
                self._without_area.add(row, list(box))
            elif isinstance(area, int | float) and area > 2 * (box[2] - box[0]) * (box[3] - box[1]) + 4:
                self._large_area.add(row, {"area": area, "box_xyxy": list(box)})
        # What was read from location tokens is in pixels, however bad the answer.
        if not is_read:
            for box in predicted_boxes:
                self._predicted.see(row, box, size)
            if true and predicted and len(self._sample) < _SAMPLE:
                self._sample.append((true_boxes[:10], predicted_boxes[:10], size))

    def conclude(self, scores: Mapping[str, object]) -> list[Doubt]:
        """Return the doubts about the whole set."""
        doubts = [*self._doubt_boxes(), *self._doubt_labels(), *self._doubt_predictions()]
        if not self._objects:
            doubts.append(Doubt("no row has an object in `objects`: there is nothing to find."))
        main = next(iter(scores))
        if scores[main] == 0 and all(doubt.level == Level.note for doubt in doubts):
            doubts.append(
                Doubt(f"{main} is 0: no predicted object lies on one of `objects` that it may count for.")
            )
        return doubts

    def _doubt_boxes(self) -> Iterable[Doubt]:
        both = bool(self._true.shares.count and self._predicted.shares.count)
        units = [*self._true.conclude(both), *self._predicted.conclude(both)]
        large, without = self._large_area, self._without_area
        if without.count and self.compared.labels:
            yield Doubt(
                f"{without.count} of {self._objects} objects have no `area`: ap_small, ap_medium and "
                "ap_large go by the area of their boxes.",
                Level.note,
            )
        if large.count > 0.5 * (self._objects - without.count):
            units.append(
                Doubt(
                    f"{large.count} objects have an `area` above that of their box; the first in "
                    f"{large.example}. {_EXPECTED_BOX}. Is it x, y, width, height?"
                )
            )
        layout = find_layout(self._sample)
        if layout is None or any(doubt.level == Level.mistake for doubt in units):
            yield from units
            return
        yield Doubt(
            f"the boxes of `{layout.key}` fit the others far better as {layout.name}: a mean IoU of "
            f"{layout.overlap:.2f} instead of {layout.overlap_as_given:.2f} in the first "
            f"{len(self._sample)} rows. {_EXPECTED_BOX}.",
            _level(layout.overlap_as_given < _NO_OVERLAP),
        )

    def _doubt_labels(self) -> Iterable[Doubt]:
        unknown = [label for label in self._predicted_labels if label not in self._true_labels]
        if not (unknown and self._true_labels):
            return
        known = {label.strip().casefold(): label for label in sorted(self._true_labels)}
        near = {label: known[key] for label in unknown if (key := label.strip().casefold()) in known}
        nothing_counts = len(unknown) == len(self._predicted_labels)
        if near:
            pairs = ", ".join(
                f"`{label}` (did you mean `{meant}`?)" for label, meant in list(near.items())[:5]
            )
            count = sum(self._predicted_labels[label] for label in near)
            yield Doubt(
                f"the labels of {count} of {self._predictions} predicted objects are not among those of "
                f"the ground truth, and differ in case or outer spaces only: {pairs}.",
                _level(nothing_counts),
            )
        elif nothing_counts:
            yield Doubt(
                f"no label of the predictions occurs in the ground truth: {_list_some(unknown)} instead of "
                f"{_list_some(sorted(self._true_labels))}."
            )

    def _doubt_predictions(self) -> Iterable[Doubt]:
        syntax = self._other_syntax
        if syntax.count:
            yield Doubt(
                f"{syntax.count} of {self._rows} predictions are written in another model's syntax, of "
                f"which no object is read; the first is {syntax.example}. {_EXPECTED_TEXT}.",
                _level(not self._predictions),
            )
        elif not self._predictions:
            what = f"; the first is {self._unread.example}. {_EXPECTED_TEXT}" if self._unread.count else ""
            yield Doubt(f"no row of {self._rows} has a predicted object{what}.")
        elif self.compared.masks and not self._with_mask:
            yield Doubt(
                f"none of {self._predictions} predicted objects has a `mask_rle`, and masks are compared. "
                "Write COCO's run lengths over the whole image; metric.mask_vae= reads masks from text.",
                # A model that was asked for masks may give boxes.
                _level(self._given > 0),
            )


def _labels(objects: Sequence[Mapping[str, object]]) -> list[str]:
    return [label for obj in objects if isinstance(label := obj.get("label"), str)]


def _level(is_mistake: bool) -> Level:
    return Level.mistake if is_mistake else Level.warning


def _list_some(labels: Sequence[str]) -> str:
    return ", ".join(f"`{label}`" for label in labels[:5]) + (", ..." if len(labels) > 5 else "")
