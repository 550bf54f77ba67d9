"""The types that parts exchange: examples, objects, prediction rows and batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from PIL import Image

if TYPE_CHECKING:  # metrics and help import this file without torch
    from torch import Tensor

IGNORED = -100
"""Label of a position that is not trained on."""

PADDING = -1
"""Block of a position after the end of a row."""


@dataclass(frozen=True)
class AnswerForm:
    """What an answer may be under `evaluation.grammar`: objects, one of several texts, or a number."""

    texts: tuple[str, ...] = ()
    """One of them is written, exactly so: as the answer, or after each box (` cat`)."""
    box: bool = False
    """Any number of objects, none twice: four locations and a text each, joined by ` ; `."""
    mask: bool = False
    """Sixteen mask codes stand after each box."""
    number: bool = False
    """The answer is a number in digits."""


@dataclass(frozen=True)
class Example:
    """One image (or several) with the prompt and the accepted answers.

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
    """The ground truth of the metric, under the names of prediction rows: `references`, or `width`,
    `height` and `objects`."""
    group: str | None = None
    """Scores are also reported for each group, such as VQAv2's answer type."""
    image: str | None = None
    """What identifies the images, in prediction rows: their paths, or digests of those inside the data;
    None in training."""
    epoch: int = 0
    """The pass over the data in which this example was drawn; decides between several suffixes."""
    keys: tuple[str, ...] = ()
    """For a store: key, width and height of each image, with spaces between."""
    stored: "tuple[Tensor, ...]" = ()
    """In the place of `images`: the resized pixels of each, (3, side, side) uint8, or what the vision tower
    makes of it, (tokens, width)."""
    antialias: bool = True
    """Whether big_vision resizes the images of this benchmark with antialiasing."""
    form: AnswerForm | None = None
    """What the answer may be; None: anything."""


@dataclass(frozen=True)
class RowFinding:
    """What is wrong with a row, or doubtful."""

    reason: str
    """What was expected and what there is, for the user."""
    is_fault: bool = True
    """A row that training refuses, or that makes its score wrong; False: a doubt."""
    split: str = ""
    """Empty where the reason itself names the file."""
    place: str = ""
    """File, and line or item; empty for the split as a whole."""
    row: str = ""
    """Its id."""

    def __str__(self) -> str:
        where = " ".join(part for part in (self.split, f"({self.place})" if self.place else "") if part)
        return f"{where}: {self.reason}" if where else self.reason


class Rle(TypedDict):
    """A mask over the whole image as COCO's run lengths."""

    size: list[int]
    """Image height and width, pixels."""
    counts: str | bytes | list[int]
    """Lengths of the runs, background first, column by column; compressed, or as plain numbers."""


class SceneObject(TypedDict, total=False):
    """One object of an image, annotated or predicted."""

    label: str
    """Its class; empty if the prompt is a referring expression."""
    box_xyxy: list[float]
    """x_min, y_min, x_max, y_max in pixels."""
    mask_rle: Rle | None
    """Its mask over the whole image; None or missing if it has no mask."""
    score: float
    """Confidence in a predicted object, 0 to 1."""
    iscrowd: int
    """1 for a crowd region of an annotation: not trained on, ignored in scoring."""
    area: float | None
    """Area of an annotation, pixels; None or missing for the area of the compared region."""


class PredictionRow(TypedDict, total=False):
    """One prediction: a line of `predictions/<split>.jsonl`. Keys that do not apply are left out.

    Rows of a file may hold anything under these names: they are `Mapping[str, object]` until the readers in
    `metrics/fields.py` have checked them.
    """

    id: str
    """Unique within its split."""
    group: str | None
    """Scores are also reported for each group."""
    part: str
    """Part of a mixture, by name."""
    image: str
    """Path or id of the image."""
    prefix: str
    """The prompt."""
    drawing: str
    """File of the drawn image, relative to the folder of the row's file; only from `predict out=FOLDER`."""
    prediction: str
    """The model's answer, without EOS."""
    unfinished: bool
    """Whether the answer was cut at `evaluation.max_new_tokens`."""
    confidence: float
    """Mean probability of the answer's tokens, 0 to 1."""
    score: float
    """The metric's score of this row, if a single row has one."""
    references: list[str]
    """Every accepted answer or caption, for metrics of text."""
    width: int
    """Width of the image, pixels; only with boxes or masks."""
    height: int
    """Height of the image, pixels; only with boxes or masks."""
    objects: list[SceneObject]
    """The annotated objects."""
    prediction_objects: list[SceneObject]
    """The predicted objects; if missing, `score` reads them from `prediction`."""


class Pixels(TypedDict):
    """The images of a batch, each once however often it is asked about."""

    pixel_values: "Tensor"
    """(distinct images, 3, side, side): uint8 with `pixel_table`; else float32, as the tower takes them."""
    pixel_table: NotRequired["Tensor"]
    """(3, 256) float32: what the checkpoint's image processor makes of each value, by channel."""
    image_keys: NotRequired[list[str]]
    """Of each row of `pixel_values`: its example's `keys`, to store what the tower makes of it."""
    features: NotRequired["Tensor"]
    """(further distinct images, tokens, width): what the tower makes of those that are stored."""
    image_rows: NotRequired["Tensor"]
    """(images of all examples in order,) int64: the row of `pixel_values`, or beyond them of `features`;
    missing: each image has its own, in order."""


class Prompts(Pixels):
    """Images and prefixes to generate from: B rows of T tokens, padded on the left."""

    input_ids: "Tensor"
    """(B, T) int64: image tokens, BOS, prefix, newline."""
    attention_mask: "Tensor"
    """(B, T) int64: 0 for padding."""
    token_type_ids: "Tensor"
    """(B, T) int64: 0 for image and prefix, which see each other both ways; 1 for the suffix."""
    forms: NotRequired[list[AnswerForm]]
    """What each answer may be; missing: anything."""
    suffixes: NotRequired[list[list[int]]]
    """Ids of an accepted answer to each prompt, with EOS, whose losses are asked for."""


class Batch(Prompts):
    """Examples with their suffixes, to train on: B rows of T tokens, padded on the right.

    N tokens are supervised, in row-major order. `segments` has the example that each belongs to, so that no
    reader of a batch takes a row for an example.
    """

    labels: "Tensor"
    """(B, T) int64: the id where a token is supervised, `IGNORED` elsewhere."""
    columns: "Tensor"
    """(B, R) int64: of each row the positions whose logits are needed, one before each supervised token;
    a row with fewer than R has its last one again."""
    places: "Tensor"
    """(N,) int64: where `columns`, flattened, has the position before each supervised token."""
    targets: "Tensor"
    """(N,) int64: the supervised tokens."""
    segments: "Tensor"
    """(N,) int64: index in `ids` of the example that each of them belongs to."""
    ids: list[str]
    """The example's id for each suffix: twice where a row has two."""
    prefix_lengths: list[int]
    """Tokens of each row before its first suffix; not a tensor, because a GPU would be waited for."""
    lengths: list[int]
    """Tokens of each row without padding. With B = 1, those of rows that are packed: see
    `model/packing.py`."""
    blocks: NotRequired["Tensor"]
    """(B, T) int64, only where a row has several suffixes: 0 for image and prefix, then the number of the
    suffix in its row, `PADDING` after it. A token sees block 0, and what precedes it in its own block."""
    position_ids: NotRequired["Tensor"]
    """(B, T) int64, next to `blocks`: from 1, and after the prefix again for each suffix."""
