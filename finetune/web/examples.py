"""Examples of a run's validation split, to be tried with a click."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from finetune.assembly.data import build_validation
from finetune.assembly.sources import build_task, load_splits
from finetune.config.schema import RunConfig
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.example import Example, SceneObject
from finetune.report.thumbnail import shrink
from finetune.tasks.mixture import PART
from finetune.tasks.objects import ObjectsTask
from finetune.tasks.task import Row, read_template
from finetune.web.forms import FREE, Form, Kind

log = logging.getLogger(__name__)

_SIDE = 240
"""Pixels of an example's small image."""


@dataclass(frozen=True)
class Offer:
    """One example that the page offers."""

    image: Path
    """The image as the model sees it."""
    small: Path
    """A copy to choose it by."""
    form: str
    """Name of the form that asks its prompt."""
    values: Mapping[str, object]
    """Values of the form's fields."""
    answer: str
    """The first accepted answer; empty where there is none, and for objects."""
    objects: Sequence[SceneObject]
    """The true objects."""


def find_offers(
    options: RunConfig, count: int, forms: Sequence[Form], folder: Path, codec: bool
) -> list[Offer]:
    """Write examples of the validation split into a folder; none if the data cannot be read any more.

    Args:
        options: name the data.
        count: of examples.
        forms: of the run's tasks.
        folder: for their images.
        codec: whether the weights are there that write masks.
    """
    if not count:
        return []
    try:
        splits = load_splits(options, training=False)
        examples = build_validation(options, splits, build_task(options, splits, codec))
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        log.warning("warning: the page has no examples, as the data cannot be read: %s", error)
        return []
    offers = []
    for index in spread(len(examples), count):
        try:
            offers.append(_write(examples, index, forms, folder))
        except (UserError, OSError) as error:
            log.warning("warning: an example is left out: %s", error)
    return offers


def spread(total: int, count: int) -> list[int]:
    """Return the positions of items that are spread over a list, the first one among them."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def _write(examples: ExampleDataset, index: int, forms: Sequence[Form], folder: Path) -> Offer:
    """Write the images of an example.

    Raises:
        UserError: its image cannot be read, or it has several.
    """
    example = examples[index]
    if len(example.images) > 1:
        raise UserError(f"`{example.id}` has {len(example.images)} images, the page asks about one.")
    [image] = example.images
    whole = folder / f"example-{index}.png"
    image.save(whole)
    kind, content = shrink(image, _SIDE, 60_000)
    small = folder / f"small-{index}.{kind}"
    small.write_bytes(content)
    form, values = _fill_in(examples.rows[index], example, forms)
    objects = example.target.get("objects") or ()
    answer = example.suffixes[0] if example.suffixes and not objects else ""
    return Offer(whole, small, form, values, answer, objects)


def _fill_in(row: Row, example: Example, forms: Sequence[Form]) -> tuple[str, dict[str, object]]:
    """Return the form that asks an example's prompt, and its values; else the free one with the prompt."""
    for form in forms:
        if form.task is None or row.get(PART) != form.part:
            continue
        values = {field.name: row.get(field.name) for field in form.fields}
        for field in form.fields:
            if field.kind == Kind.classes and isinstance(form.task, ObjectsTask):
                named = read_template(form.template, example.prefix).get("labels", "").split(" ; ")
                values[field.name] = [] if tuple(named) == field.known else named
        try:
            if form.write(values)[0] == (example.prefix,):
                return form.name, values
        except UserError:
            continue
    return FREE, {"prefix": example.prefix}
