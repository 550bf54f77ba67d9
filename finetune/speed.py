"""Shortcuts that leave losses and gradients as they are: their options, and what became of each in a run.

Each has a switch here, is built where the work is done (`model/`, `data/batches/`), and reports a
`Technique`. Imported by the configuration, so that help answers without torch: nothing heavy is imported
here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

from finetune.option import COUNT, option


@dataclass
class SpeedOptions:
    """Shortcuts that leave the gradient as it is. Each is on where it applies; the run's log lists them."""

    last_layer: bool = True
    """Compute the last decoder layer only at positions whose next token is supervised."""
    frozen_tower: bool = True
    """Run a vision tower that does not learn without recording it for the backward pass."""
    half_inputs: bool = True
    """Under autocast, give adapters their input as it is, without a float32 copy."""
    lean_adapters: bool = True
    """Add an adapter's product to the layer's in place, and multiply gradients in the faster order."""
    lean_mlp: bool = True
    """Compute Gemma's activation and its product again in the backward pass, in place of keeping them."""
    lean_norms: bool = True
    """Keep the input of Gemma's norms as it is, without a float32 copy."""
    checkpoint_every: int | None = option(None, COUNT)
    """Where `trainer.activation_checkpointing` is on: recompute every k-th layer; 1: every layer. `null`:
    on a GPU as few layers as its memory needs by the estimate of `plan`, or none; elsewhere 1."""
    compile: bool | None = None
    """Compile each layer by itself with torch.compile, for training. `null`: on GPUs. Rounding differs, and
    the first steps take longer."""
    uint8_pixels: bool = True
    """Send images to the device as bytes, a quarter of their size, and scale them there."""
    distinct_images: bool = True
    """Run vision tower and projector once for each distinct image of a batch."""
    feature_cache: bool | None = None
    """Keep what a frozen vision tower makes of each image on disk, in the folder that the environment
    variable FINETUNE_CACHE names, for later epochs, evaluations and runs; images that are there are not
    decoded. `null`: on a CPU, if the run passes over its images more than once, and what is kept takes less
    than a quarter of the free disk."""
    pixel_cache: bool = False
    """Keep the resized pixels of each image in that folder, where features are not kept: a run whose vision
    tower learns then decodes and resizes each image once. It pays where decoding is the bottleneck: images
    much larger than the model's square, several epochs, few cores next to a fast GPU."""
    group_lengths: bool = True
    """Sort the examples of each optimizer step by length, so that those of one forward pass are padded
    little and all processes have equal work. A step has the same examples and the same gradient; only where
    dropout is on, it drops other activations."""
    group_steps: int = option(1, COUNT)
    """Sort the examples of n optimizer steps together, where one step is too short for `group_lengths`.
    This changes the training: the examples of a step are more alike in length. Each epoch still has every
    example once, in an order that follows from the seed, with any number of devices; the parts of a mixture
    have their shares in n steps together, not in each."""
    packing: bool | None = None
    """Compute the examples of a forward pass one after another in a single row, without padding. Positions
    begin again in each and none attends to another, so that the gradient is the same; only where dropout is
    on, it drops other activations. `null`: on a CPU, without dropout, if more than 2 % of the tokens would
    be padding."""


class Technique(NamedTuple):
    """What became of one shortcut in a run."""

    option: str
    """A field of `SpeedOptions`, or the full name of an option elsewhere."""
    is_on: bool
    detail: str
    """What it does in this run, or why it is off."""


def switched_off(option: str) -> Technique:
    """Return a shortcut that its option switched off."""
    return Technique(option, False, f"by trainer.speed.{option}")


def format_techniques(techniques: Iterable[Technique]) -> str:
    """Return the table of all shortcuts for the log, in the order of the options."""
    order = [field.name for field in fields(SpeedOptions)]
    rows = sorted(
        techniques, key=lambda row: (row.option not in order, [*order, row.option].index(row.option))
    )
    width = max(len(row.option) for row in rows)
    lines = [f"  {row.option:<{width}}  {'on ' if row.is_on else 'off'}  {row.detail}" for row in rows]
    return "\n".join(["shortcuts (trainer.speed), which leave the gradient as it is:", *lines])
