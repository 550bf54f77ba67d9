"""Every option of every command, its type, its default and its meaning.

The string under a field is the only place where that option is documented: `JOB --help` prints it. Each
part declares its own options in its `options.py`; a run is composed of them here. Groups of options that go
together live in `conf/`, complete runs in `recipes/`. The groups whose options differ from choice to choice
(dataset, task, metric) have their schemas in `choices.py`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from finetune.data.batches.options import CollatorConfig, ImageConfig
from finetune.data.examples.options import AugmentationConfig
from finetune.generation.options import EvaluationConfig
from finetune.model.options import FreezePolicy, ModelConfig, PeftConfig
from finetune.option import MAY_BE_EMPTY, Range, option
from finetune.training.options import TrainerConfig


@dataclass
class TrackerConfig:
    """Where the curves are sent beside the run's folder."""

    report_to: str = "none"
    """`none` or `wandb`."""
    project: str = "paligemma"
    """The project's name there."""
    mode: str | None = None
    """wandb's online, offline or disabled; null leaves it to WANDB_MODE."""


SPELLINGS = {"image": "picture"}
"""Words of the command line for fields of another name: `image=FILE`, for `image.resize` has the name."""


@dataclass
class RunConfig:
    """One run."""

    run_name: str | None = option(None, MAY_BE_EMPTY)
    """Name of the run's folder. Null: the recipe's."""
    runs_dir: str = "runs"
    """Folder of the runs."""
    resume: bool = False
    """Continue the run in its folder from its last complete checkpoint."""
    overwrite: bool = False
    """Delete the run in its folder first."""
    seed: int = option(0, Range(0, 2**32 - 1))
    """Seed of the order of the data, its augmentation, the choice of suffixes, the adapters and dropout."""
    check_images: bool = False
    """`train`, `evaluate`: decode every image of the data beforehand, and report those that cannot be."""
    run: str | None = None
    """`evaluate`, `predict`: a finished run's folder."""
    adapter: str | None = None
    """Hub id or folder of an adapter for `model`: `train` goes on with it, `evaluate` and `predict` use it.
    A run's is in its folder: runs/NAME/adapter."""
    picture: str | None = None
    """`predict`: an image, or a folder of them."""
    prefix: str | None = option(None, MAY_BE_EMPTY)
    """`predict`: the prompt."""
    out: str | None = None
    """`predict`: folder for the pictures with what was found drawn in."""
    predictions: str | None = None
    """`score`: a JSONL file of prediction rows, or `-` for standard input."""
    model: ModelConfig = field(default_factory=ModelConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    dataset: Any = MISSING
    task: Any = MISSING
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    collator: CollatorConfig = field(default_factory=CollatorConfig)
    freeze: FreezePolicy = field(default_factory=FreezePolicy)
    peft: PeftConfig = field(default_factory=PeftConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    metric: Any = MISSING
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
