"""The options of a run, composed from those that each part declares in its `options.py`.

The string under a field is the only documentation of that option: `JOB --help` prints it. Groups of options
are in `conf/`, complete runs in `recipes/`. The groups whose options differ from choice to choice (dataset,
task, metric) have their schemas in `choices.py`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from finetune.data.batches.options import CollatorConfig, ImageConfig
from finetune.data.examples.options import AugmentationConfig
from finetune.generation.options import EvaluationConfig
from finetune.model.options import AdapterBase, FreezePolicy, ModelConfig, PeftConfig
from finetune.option import Range, option
from finetune.report.options import PublishedScore, ReportConfig
from finetune.run.trackers.options import TrackerConfig
from finetune.training.options import TrainerConfig

SPELLINGS = {"image": "picture"}
"""Word of the command line -> field. `image=FILE` is `picture`, since the group `image` has that name."""


@dataclass
class RunConfig:
    """The options that a recipe may contain, and that a run's `config.yaml` does contain."""

    runs_dir: str = "runs"
    """Folder that contains the runs."""
    seed: int = option(0, Range(0, 2**32 - 1))
    """Seed of data order, augmentation, choice of suffixes, adapter initialization and dropout."""
    check_images: bool = False
    """Decode every image before the model is loaded, and report those that cannot be decoded."""
    adapter: str | None = None
    """Hub id or folder of an adapter for `model`: `train` continues it, `evaluate` and `predict` use it.
    The adapter of a run is runs/NAME/adapter."""
    adapter_revision: str | None = None
    """Branch, tag or commit of an `adapter` on the Hub."""
    adapter_base: AdapterBase = AdapterBase.trained
    """`trained`: an adapter is refused on another base, commit, resolution or quantization than it was
    trained on. `any`: it is used there, with a warning."""
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
    report: ReportConfig = field(default_factory=ReportConfig)
    published: dict[str, PublishedScore] = field(default_factory=dict)
    """Scores from papers, under any names, for the report: `field`, `value`, `model`, `resolution`, `split`
    and `source`, and `group` for the score of a group."""
