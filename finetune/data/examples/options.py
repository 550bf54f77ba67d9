"""Options of the augmentation.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from dataclasses import dataclass

from finetune.option import SHARE, Range, option


@dataclass
class AugmentationConfig:
    """Pictures changed at random while training; boxes, masks and the picture's size follow.

    Texts do not: a crop may cut away what a caption, a question or a document speaks of, a flip mirrors
    writing, and other colours may make an answer wrong.
    """

    flip: float = option(0.0, SHARE)
    """Probability of a mirrored picture. A row whose text or labels name sides (`flip_words`) is never
    mirrored; writing in the picture is."""
    flip_words: list[str] | None = None
    """Words that name sides: those in ASCII as whole words, others anywhere in the text. Null: English ones
    such as left, right, leftmost, clockwise; captions in another language need their own."""
    crop: float = option(1.0, Range(0, 1, above_least=True))
    """Smallest share of the area that a random crop keeps, of a ratio of sides up to 4/3 either way from
    the picture's; 1: no crop. A risk for captions, questions and documents: what they speak of may be
    cut away."""
    min_visible: float = option(0.3, SHARE)
    """Objects of whose box less than this share is still seen are left out of the answer; where nothing
    asked for would be left, another crop is drawn, and after ten there is none."""
    resize: list[float] = option([1.0, 1.0], Range(0, 100, above_least=True))
    """Smallest and largest scale of the picture within its own size: below 1 it lies on grey, above 1 it
    is cropped."""
    brightness: float = option(0.0, SHARE)
    """Largest change as a share, either way: 0.2 draws a factor between 0.8 and 1.2."""
    contrast: float = option(0.0, SHARE)
    """Likewise."""
    saturation: float = option(0.0, SHARE)
    """Likewise."""

    @property
    def moves(self) -> bool:
        """Whether anything may change its place."""
        return self.flip > 0 or self.crop < 1 or tuple(self.resize) != (1, 1)

    @property
    def recolors(self) -> bool:
        """Whether colors may change."""
        return max(self.brightness, self.contrast, self.saturation) > 0
