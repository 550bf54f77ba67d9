"""Options of the augmentation.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune.option import SHARE, Range, option


@dataclass
class AugmentationConfig:
    """Random changes of the training images; boxes, masks and the image's size follow.

    Texts do not: a crop may cut away what a caption, question or document refers to, a flip mirrors
    writing, and other colors may make an answer wrong.
    """

    flip: float = option(0.0, SHARE)
    """Probability of mirroring an image. A row whose text or labels name sides (`flip_words`) is never
    mirrored; writing in the image is."""
    flip_words: list[str] | None = None
    """Words that name sides: those in ASCII as whole words, others anywhere in the text. `null`: English
    ones such as left, right, leftmost, clockwise; give them for captions in another language."""
    crop: float = option(1.0, Range(0, 1, above_least=True))
    """Smallest share of the area that a random crop keeps; its aspect ratio differs from the image's by up
    to 4/3 either way. 1: no crop. A risk for captions, questions and documents: what they refer to may be
    cut away."""
    min_visible: float = option(0.3, SHARE)
    """Smallest visible share of an object's box; objects below it are left out of the answer. If none of
    the objects asked for would remain, another crop is drawn; after ten, the image is not cropped."""
    resize: list[float] = option([1.0, 1.0], Range(0, 100, above_least=True))
    """Smallest and largest scale of the image within its own size: below 1 it is padded with gray, above 1
    it is cropped."""
    brightness: float = option(0.0, SHARE)
    """Largest change of the brightness, as a share: 0.2 draws a factor between 0.8 and 1.2."""
    contrast: float = option(0.0, SHARE)
    """Largest change of the contrast, as a share."""
    saturation: float = option(0.0, SHARE)
    """Largest change of the saturation, as a share."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield scales that are not two in order."""
        if len(self.resize) != 2 or not self.resize[0] <= self.resize[1]:
            yield f"{prefix}resize={self.resize}: expected [smallest,largest], both more than 0."

    @property
    def moves(self) -> bool:
        """Whether objects may move."""
        return self.flip > 0 or self.crop < 1 or tuple(self.resize) != (1, 1)

    @property
    def recolors(self) -> bool:
        """Whether colors may change."""
        return max(self.brightness, self.contrast, self.saturation) > 0
