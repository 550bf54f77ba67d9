"""What a preview shows of a split: examples from real batches, and numbers."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image

from finetune.assembly.review import Reviewed, name_rows
from finetune.assembly.sources import build_source
from finetune.assembly.trainer import divide_run_batch, part_weights
from finetune.codecs.objects import ObjectReader
from finetune.config.schema import RunConfig
from finetune.data.batches.order import ExampleStream
from finetune.data.batches.sequence import Piece, decode_labels, describe_tokens
from finetune.data.cache import find_places
from finetune.data.examples.decoding import decode_images
from finetune.data.examples.summary import Summary
from finetune.example import Batch, Example, SceneObject
from finetune.model.features import spread_pixels
from finetune.report.draw import draw_prediction
from finetune.report.preview import PageExample, PageSplit, TokenRun
from finetune.report.thumbnail import thumbnail
from finetune.tasks.task import Answer, Task

_MOST_DRAWS = 20_000
"""Examples whose batches are measured for padding."""


class Shown(NamedTuple):
    """An example on the page, and as a file."""

    page: PageExample
    picture: Image.Image
    """With prompt and answer below it."""


def show_examples(config: RunConfig, split: Reviewed, count: int) -> list[Shown]:
    """Make a batch of a split as a training or an evaluation makes it, and read it.

    Args:
        config: options of the run.
        split: of which rows are drawn: to train on the first ones, to evaluate on evenly spread ones.
        count: number of examples.
    """
    draws = list(_draw(config, split, count))
    checked = decode_images(split.examples, sorted({index for _, index in draws}))
    broken = {row.row for row in checked if row.fault is not None}
    draws = [draw for draw in draws if draw[1] not in broken]
    if not draws:
        return []
    examples = [split.examples[draw] for draw in draws]
    batch = split.collator(examples)
    ids = name_rows(split.examples, [index for _, index in draws])
    places = find_places(split.examples.rows, ids.values())
    first, shown = 0, []
    for number, (example, (_, index)) in enumerate(zip(examples, draws, strict=True)):
        images = _read_images(batch, range(first, first + len(example.images)))
        first += len(example.images)
        place = places.get(ids[index], "")
        shown.append(_show(split, batch, number, example, images, place))
    return shown


def _draw(config: RunConfig, split: Reviewed, count: int) -> Iterator[tuple[int, int]]:
    """Yield (epoch, index) of the examples to show."""
    rows = len(split.examples)
    if split.examples.seed is None:
        indices = np.linspace(0, rows - 1, min(count, rows)).round().astype(int)
        yield from ((0, int(index)) for index in indices)
    else:
        yield from islice(_stream(config, split, count), count)


def _stream(config: RunConfig, split: Reviewed, draws: int) -> ExampleStream:
    parts = part_weights(build_source(config.dataset), split.examples)
    sizes = [size for size, _ in parts.values()] or [len(split.examples)]
    return ExampleStream(sizes, draws, config.seed, [weight for _, weight in parts.values()] or None)


def _read_images(batch: Batch, numbers: range) -> list[Image.Image]:
    """Return images of a batch as the model sees them."""
    pixels = ((spread_pixels(batch)[numbers.start : numbers.stop] + 1) * 127.5).round().clamp(0, 255)
    arrays = pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays]


def _show(
    split: Reviewed, batch: Batch, number: int, example: Example, images: list[Image.Image], place: str
) -> Shown:
    text = decode_labels(batch, number, split.collator)
    objects = _read_objects(split.examples.task, example, text, images[0])
    drawn = draw_prediction(images[0], {"id": example.id, "prediction_objects": objects})
    pieces = describe_tokens(batch, number, split.collator)
    page = PageExample(
        split.examples.split,
        example.id,
        place,
        [thumbnail(image) for image in (drawn, *images[1:])],
        [_to_run(piece) for piece in pieces],
    )
    words = {"id": example.id, "prefix": example.prefix, "prediction": text}
    return Shown(page, draw_prediction(images[0], {**words, "prediction_objects": objects}))  # type: ignore[typeddict-item]


def _to_run(piece: Piece) -> TokenRun:
    return TokenRun(piece.part, piece.tokens, piece.attention, piece.is_learned)


def _read_objects(task: Task, example: Example, text: str, image: Image.Image) -> list[SceneObject]:
    """Return the objects that an answer says, in the pixels of the image that the model sees."""
    if "objects" in example.target:
        target = {**example.target, "width": image.width, "height": image.height}
        objects: list[SceneObject] = list(task.read_answer(Answer(text, 1.0), target)["prediction_objects"])
        return objects
    return ObjectReader().read(text, (image.height, image.width)) if "<loc" in text else []


def describe_split(config: RunConfig, split: Reviewed, summary: Summary, side: int) -> PageSplit:
    """Return the numbers of a split.

    Args:
        config: options of the run.
        split: the rows.
        summary: of their texts.
        side: of the images that the model sees, pixels.
    """
    sizes = [image.size for row in split.images.values() for image in row.images]
    lengths: dict[str, Sequence[float]] = {
        "tokens of prompt and answer": summary.tokens,
        "tokens of the prompt": summary.prompt_tokens,
        "tokens of an answer, with EOS": summary.answer_tokens,
        "objects in an image": summary.objects,
        f"side of a box, of {side} pixels": [
            side * (width * height) ** 0.5 for width, height in summary.boxes
        ],
        "width of an image by its height": [width / height for height, width in sizes],
    }
    read = "" if summary.read == summary.rows else f" ({summary.read:,} of them read for these numbers)"
    facts: dict[str, object] = {
        "rows": f"{summary.rows:,}{read}",
        "different prompts": len(summary.prompts),
    }
    if summary.answers:
        facts["different answers"] = len(summary.answers)
    if summary.objects:
        facts["objects"] = f"{sum(summary.objects):,} of {len(summary.classes):,} classes"
        facts["images without an object"] = summary.objects.count(0)
    facts["images decoded"] = f"{len(split.images):,}"
    if split.examples.seed is not None:
        facts["text tokens, at most"] = f"{max(summary.tokens)} of {config.collator.max_text_length}"
        facts["share of padding"] = _describe_padding(config, split, summary)
    # A plot of them would say no more.
    facts |= {name: values[0] for name, values in lengths.items() if len(set(values)) == 1}
    return PageSplit(
        split.examples.split,
        facts,
        lengths,
        {"classes": summary.classes, "answers": summary.answers, "prompts": summary.prompts},
    )


def _describe_padding(config: RunConfig, split: Reviewed, summary: Summary) -> str:
    size, _ = divide_run_batch(config.trainer, 1)
    lengths = np.array(summary.tokens) + split.collator.tokens_per_image * _count_images(split)
    draws = min(len(lengths), _MOST_DRAWS)
    order = [index for _, index in _stream(config, split, draws)]
    drawn = lengths[order[: draws // size * size or draws]]
    batches = drawn.reshape(-1, min(size, len(drawn)))
    share = 1 - batches.sum() / (batches.max(1).sum() * batches.shape[1])
    return f"{100 * share:.1f} % of the tokens, in batches of {batches.shape[1]}"


def _count_images(split: Reviewed) -> np.ndarray:
    rows = split.examples.rows
    if "images" not in rows.column_names:
        return np.ones(len(rows), dtype=np.int64)
    several = rows.select_columns("images").with_format("arrow")[:]["images"]
    counts: np.ndarray = pc.list_value_length(several).fill_null(1).to_numpy().astype(np.int64)
    return np.maximum(counts, 1)
