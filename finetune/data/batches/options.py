"""Options of the batches; `resize.py` has what `paper` means.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from dataclasses import dataclass
from enum import StrEnum

from finetune.option import Range, option


class Overflow(StrEnum):
    """What happens to an example whose text is longer than the budget."""

    error = "error"
    drop = "drop"
    shorten_prefix = "shorten_prefix"


class SuffixChoice(StrEnum):
    """Which of several accepted suffixes is trained on."""

    first = "first"
    random = "random"
    cycle = "cycle"


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


@dataclass
class CollatorConfig:
    """From examples to a batch."""

    max_text_length: int = option(128, Range(4, 1e6))
    """Tokens for BOS, prefix, newline, suffix and EOS together; image tokens come on top."""
    overflow: Overflow = Overflow.error
    """Text over the budget: `error` names the example; `drop` leaves out the suffixes that do not fit, and
    an example without any that does; `shorten_prefix` cuts the end of the prefix, and leaves out suffixes
    that are too long on their own. What is left out is counted and listed in `skipped.jsonl`. Image
    tokens, suffix and EOS are never cut."""
    suffix_choice: SuffixChoice = SuffixChoice.cycle
    """Of several accepted suffixes: the `first`, a `random` one each epoch, or each in turn, without
    replacement, over the epochs (`cycle`, the paper's way)."""
