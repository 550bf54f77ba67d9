"""An answer's objects as prediction rows have them: label, box, mask and score."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune.codecs.boxes import DIVISOR, Reading, decode_boxes, decode_official


class ObjectReader:
    """Reads the objects of generated text.

    Args:
        divisor: what location tokens are divided by, 1023 or 1024.
        mask_vae: file of the mask VAE's weights; null: masks are not read, only boxes.
        reading: `lenient` reads every object it can; `official` one mask as big_vision's evaluator does.
    """

    def __init__(
        self, divisor: int = DIVISOR, mask_vae: str | None = None, reading: str = "lenient"
    ) -> None:
        self.divisor = divisor
        self.mask_vae = mask_vae
        self.is_official = reading == "official"

    @cached_property
    def _vae(self) -> Any:
        from finetune.codecs.mask_vae import load_mask_vae  # torch: not for boxes alone

        return load_mask_vae(Path(str(self.mask_vae)))

    def read(
        self,
        text: str,
        size: tuple[int, int],
        token_ends: Sequence[int] = (),
        probabilities: Sequence[float] = (),
    ) -> list[dict[str, Any]]:
        """Read the objects in the order of the text; what is no object is left out.

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
        for one, mask in zip(reading.objects, masks, strict=True):
            found: dict[str, Any] = {"label": one.label, "box_xyxy": list(one.box_xyxy)}
            if token_ends:
                found["score"] = _mean_probability(text, one.span, token_ends, probabilities)
            if mask is not None:
                found["mask_rle"] = mask
            objects.append(found)
        return objects

    def _decode(self, text: str, size: tuple[int, int]) -> tuple[Reading, list[Any]]:
        if self.mask_vae is None:
            decode = decode_official if self.is_official else decode_boxes
            reading = decode(text, size, self.divisor)
            return reading, [None] * len(reading.objects)
        from finetune.codecs.coco_mask import encode_rle
        from finetune.codecs.masks import decode_masks

        reading, masks = decode_masks(text, size, self._vae, self.divisor, self.is_official)
        return reading, [None if mask is None else encode_rle(mask) for mask in masks]


def _mean_probability(
    text: str, span: tuple[int, int], token_ends: Sequence[int], probabilities: Sequence[float]
) -> float:
    start, end = span
    starts = [0, *token_ends[:-1]]
    own = [
        probability
        for first, last, probability in zip(starts, token_ends, probabilities, strict=True)
        if start < last and first < end and not text[first:last].startswith("<seg")
    ]
    return round(sum(own) / len(own), 6) if own else 0.0
