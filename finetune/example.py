"""The one row type that crosses parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from PIL import Image

IGNORED = -100
"""Label of a position that is not trained on."""


class SceneObject(TypedDict, total=False):
    """One object of an image, annotated or predicted."""

    label: str
    box_xyxy: list[float]
    """x_min, y_min, x_max, y_max, pixels."""
    iscrowd: int
    """1 for a crowd region: not trained on, ignored in scoring."""
    area: float | None
    """Pixels, as annotated; None: unknown."""
    mask_rle: Mapping[str, object] | None
    """COCO's compressed run lengths over the whole image; None: no mask."""
    score: float
    """Confidence of a prediction."""


@dataclass(frozen=True)
class Example:
    """One picture (or several) with what is asked and what may be answered.

    A source's row becomes an `Example` in `data/examples/dataset.py`; the collator turns a list of them
    into a batch, and evaluation scores the model's answer against `target`.
    """

    id: str
    """Unique within its split; named in errors and in prediction rows."""
    images: tuple[Image.Image, ...]
    """RGB, at their own size."""
    prefix: str
    """The prompt, without the separating newline."""
    suffixes: tuple[str, ...]
    """Every accepted answer; empty where the answer is unknown."""
    target: Mapping[str, Any] = field(default_factory=dict)
    """What an answer is scored against, under the names of prediction rows: `references`, or
    `width`, `height` and `objects`."""
    group: str | None = None
    """Scores are also reported for each group, such as VQAv2's answer type."""
    epoch: int = 0
    """The pass over the data in which this example was drawn; decides between several suffixes."""
    antialias: bool = True
    """Whether big_vision resizes the images of this benchmark with antialiasing."""
