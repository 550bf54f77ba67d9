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
    checkpoint_every: int | None = option(None, COUNT)
    """Where `trainer.activation_checkpointing` is on: recompute every k-th layer; 1: every layer. `null`:
    on a GPU as few layers as its memory needs by the estimate of `plan`, or none; elsewhere 1."""


class Technique(NamedTuple):
    """What became of one shortcut in a run."""

    option: str
    """A field of `SpeedOptions`."""
    is_on: bool
    detail: str
    """What it does in this run, or why it is off."""


def switched_off(option: str) -> Technique:
    """Return a shortcut that its option switched off."""
    return Technique(option, False, f"by trainer.speed.{option}")


def format_techniques(techniques: Iterable[Technique]) -> str:
    """Return the table of all shortcuts for the log, in the order of the options."""
    order = [field.name for field in fields(SpeedOptions)]
    rows = sorted(techniques, key=lambda technique: order.index(technique.option))
    width = max(len(row.option) for row in rows)
    lines = [f"  {row.option:<{width}}  {'on ' if row.is_on else 'off'}  {row.detail}" for row in rows]
    return "\n".join(["shortcuts (trainer.speed), which leave the gradient as it is:", *lines])
