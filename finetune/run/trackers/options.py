"""Options of the trackers.

Imported by the configuration, so that help answers without them: nothing heavy is imported here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune.errors import suggest
from finetune.option import Range, option

NAMES = ("tensorboard", "trackio", "wandb")

MODES = ("online", "offline", "disabled")


@dataclass
class TrackerConfig:
    """The trackers that receive curves, scores and predictions, in addition to the run's folder."""

    names: list[str] = field(default_factory=list)
    """Any of tensorboard, trackio and wandb. Short: `tracker=[tensorboard,wandb]`."""
    project: str = "paligemma"
    """Name of the project in Weights & Biases and trackio."""
    mode: str | None = None
    """Of Weights & Biases: online, offline or disabled. `null`: as WANDB_MODE says, and offline where
    nobody is logged in."""
    predictions: int = option(16, Range(0, 1000))
    """Rows of the table of predictions with images: the first n of the split, at each evaluation."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield names that are not trackers, and a mode that does not exist."""
        for name in self.names:
            if name not in NAMES:
                known = f"expected {', '.join(NAMES[:-1])} or {NAMES[-1]}."
                yield f"{prefix}names: `{name}` is not a tracker; {known}{suggest(name, list(NAMES))}"
        if len(set(self.names)) < len(self.names):
            yield f"{prefix}names={self.names}: a tracker is named twice."
        if self.mode not in {None, *MODES}:
            yield f"{prefix}mode={self.mode}: expected {', '.join(MODES[:-1])} or {MODES[-1]}."
