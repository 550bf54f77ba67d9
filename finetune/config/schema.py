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
from finetune.option import Range, option
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
    """A run: what a recipe may hold, and what a run's `config.yaml` does hold."""

    runs_dir: str = "runs"
    """Folder of the runs."""
    seed: int = option(0, Range(0, 2**32 - 1))
    """Seed of the order of the data, its augmentation, the choice of suffixes, the adapters and dropout."""
    check_images: bool = False
    """Decode every image of the data beforehand, and report those that cannot be."""
    adapter: str | None = None
    """Hub id or folder of an adapter for `model`: `train` goes on with it, `evaluate` and `predict` use it.
    A run's is in its folder: runs/NAME/adapter."""
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
    metrics: dict[str, Any] = field(default_factory=dict)
    """More metrics by name, whose fields are reported too: `metrics=[exact_match,anls]`; their options are
    `metrics.anls.convention=paper` and so on."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
