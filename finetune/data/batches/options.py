"""Options of the batches; `resize.py` has what `paper` means.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from collections.abc import Iterator
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


class Targets(StrEnum):
    """How many of an example's accepted suffixes are trained on at once."""

    one = "one"
    all = "all"


class Resize(StrEnum):
    """How images are brought to the model's square."""

    bicubic = "bicubic"
    bilinear = "bilinear"
    paper = "paper"


@dataclass
class ImageConfig:
    """From an image's file to the model's pixels."""

    resize: Resize = Resize.bicubic
    """`bicubic`: as the converted checkpoints' processors do. `bilinear`: antialiased. Both rotate an image
    by its EXIF orientation and put transparent images on white. `paper`: as big_vision does: bilinear,
    truncated to bytes, antialiased or not as for the benchmark and split (other data: antialiased);
    EXIF orientation and transparency are ignored."""


@dataclass
class CollatorConfig:
    """From examples to a batch."""

    max_text_length: int = option(128, Range(4, 1e6))
    """Tokens for BOS, prefix, newline, suffix and EOS together; image tokens are not counted."""
    overflow: Overflow = Overflow.error
    """Text longer than `max_text_length`: `error` names the example; `drop` leaves out suffixes that do not
    fit, and examples of which none fits; `shorten_prefix` cuts the end of the prefix, and leaves out
    suffixes that are too long by themselves. What is left out is counted and listed in `skipped.jsonl`.
    Image tokens, suffix and EOS are never cut."""
    suffix_choice: SuffixChoice = SuffixChoice.cycle
    """Which of several accepted suffixes is trained on: the `first`, a `random` one each epoch, or each in
    turn, without replacement, over the epochs (`cycle`, as in the paper)."""
    targets: Targets = Targets.one
    """`all`: each epoch trains on every accepted suffix of an example, as on an example of its own. They
    share a row with image and prefix, which are computed once: with five captions, four times faster than
    one after the other. A batch then counts images with prefix, not suffixes."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that exclude each other."""
        if self.targets == Targets.all and self.overflow == Overflow.shorten_prefix:
            yield (
                f"{prefix}targets=all shares one prefix between suffixes, {prefix}overflow=shorten_prefix "
                "cuts it differently for each: choose overflow=drop."
            )
