"""An answer's objects as prediction rows have them: label, box, mask and score."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from finetune.codecs.boxes import DIVISOR, Reading, decode_boxes, decode_official
from finetune.example import AnswerForm, Rle, SceneObject

if TYPE_CHECKING:
    from finetune.codecs.mask_vae import MaskVae


@dataclass(frozen=True)
class ObjectReader:
    """Reads the objects of generated text.

    Args:
        divisor: what location tokens are divided by, 1023 or 1024.
        mask_vae: weights of the mask codec, `published` or a file; None: masks are not read, only boxes.
        official: read one mask as big_vision's evaluator does, instead of every object that can be read.
    """

    divisor: int = DIVISOR
    mask_vae: str | None = None
    official: bool = False

    @cached_property
    def vae(self) -> "MaskVae":
        """The mask codec; reads the weights, and downloads those that are published, at first use.

        Raises:
            UserError: they cannot be downloaded or read.
        """
        from finetune.codecs.mask_vae import find_weights, load_mask_vae  # torch: not for boxes alone

        return load_mask_vae(find_weights(str(self.mask_vae)))

    def load(self) -> None:
        """Read the weights now, so that a fault in them is reported before the first answer is read.

        Raises:
            UserError: they cannot be downloaded or read.
        """
        _ = self.vae

    def read(
        self,
        text: str,
        size: tuple[int, int],
        token_ends: Sequence[int] = (),
        probabilities: Sequence[float] = (),
    ) -> list[SceneObject]:
        """Read the objects in the order of the text; what is not an object is left out.

        An object's score is the mean probability of its location and label tokens. Mask codes do not
        count: the 128 of them overlap, so that a sure mask may have unsure codes.

        Args:
            text: what the model generated.
            size: image height and width, pixels.
            token_ends: where each token ends in the text, characters; empty: no scores.
            probabilities: of these tokens, 0 to 1.

        Returns:
            `label`, `box_xyxy` in pixels, `mask_rle` where the text has a mask, `score` where there are
            probabilities.
        """
        reading, masks = self._decode(text, size)
        objects = []
        for written, mask in zip(reading.objects, masks, strict=True):
            obj: SceneObject = {"label": written.label, "box_xyxy": list(written.box_xyxy)}
            if token_ends:
                obj["score"] = _mean_probability(text, written.span, token_ends, probabilities)
            if mask is not None:
                obj["mask_rle"] = mask
            objects.append(obj)
        return objects

    def _decode(self, text: str, size: tuple[int, int]) -> tuple[Reading, list[Rle | None]]:
        if self.mask_vae is None:
            decode = decode_official if self.official else decode_boxes
            reading = decode(text, size, self.divisor)
            return reading, [None] * len(reading.objects)
        from finetune.codecs.coco_mask import encode_rle
        from finetune.codecs.masks import decode_masks

        reading, masks = decode_masks(text, size, self.vae, self.divisor, self.official)
        return reading, [None if mask is None else encode_rle(mask) for mask in masks]


def form_objects(labels: Sequence[str], mask: bool) -> AnswerForm:
    """Return the form of an answer with objects of these classes, as `encode_boxes` writes it.

    Args:
        labels: the classes, with or without spaces around them; an empty one is written as nothing.
        mask: each box has a mask.
    """
    names = dict.fromkeys(label.strip() for label in labels)
    return AnswerForm(tuple(f" {name}".rstrip() for name in names), box=True, mask=mask)


def _mean_probability(
    text: str, span: tuple[int, int], token_ends: Sequence[int], probabilities: Sequence[float]
) -> float:
    start, end = span
    starts = [0, *token_ends[:-1]]
    counted = [
        probability
        for first, last, probability in zip(starts, token_ends, probabilities, strict=True)
        if start < last and first < end and not text[first:last].startswith("<seg")
    ]
    return round(sum(counted) / len(counted), 6) if counted else 0.0
