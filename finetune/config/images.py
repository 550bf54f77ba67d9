"""The options of the images; `finetune/data/batches/resize.py` has what `paper` means."""

from dataclasses import dataclass
from enum import StrEnum


class Resize(StrEnum):
    """How images are brought to the model's square."""

    bicubic = "bicubic"
    bilinear = "bilinear"
    paper = "paper"


@dataclass
class ImageConfig:
    """From an image's file to the model's pixels."""

    resize: Resize = Resize.bicubic
    """`bicubic`: as the converted checkpoints' processors do. `bilinear`: antialiased. Both turn an image
    upright by its EXIF mark and put transparency on white. `paper`: as big_vision does: bilinear,
    truncated to bytes, with or without antialiasing as for the benchmark and split (other data with),
    and neither EXIF nor transparency are looked at."""
