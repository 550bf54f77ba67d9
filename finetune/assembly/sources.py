"""The rows of a run and the task that reads them: what a run knows of its data."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from omegaconf import OmegaConf

from finetune.assembly.custom import build_metric, instantiate
from finetune.assembly.mask_codec import find_mask_vae
from finetune.config.schema import RunConfig
from finetune.data.examples.classes import find_labels
from finetune.data.examples.mixture import part_ranges
from finetune.data.options import Mixture, OnError, Part, Source
from finetune.data.rows import Splits, follow_links
from finetune.errors import UserError
from finetune.metrics.several import find_object_metric
from finetune.processes import main_first
from finetune.run.folder import Launch
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsOptions, ObjectsTask, PromptClasses, list_names, object_tasks
from finetune.tasks.task import Task

log = logging.getLogger(__name__)


@dataclass
class CustomSource(Source):
    """Rows from a function of the user's own."""

    node: dict[str, Any]
    """`_target_`, and its arguments."""

    def load(self) -> Splits:
        """Call the function.

        Raises:
            UserError: it cannot be called, or returns something else.
        """
        splits = instantiate(self.node)
        if not isinstance(splits, Splits):
            raise UserError(f"dataset._target_ must return Splits(train, validation), got {splits!r}.")
        # Every reader here resolves links; a function of the user's own has not.
        return follow_links(splits)

    def describe(self, split: str) -> str:
        """Return the function's name."""
        return str(self.node["_target_"]).rpartition(".")[2]

    @property
    def has_train(self) -> bool:
        """Whether an option `train`, if the function has one, is given."""
        return self.node.get("train", True) is not None

    @property
    def skips_faults(self) -> bool | None:
        """Whether a row with a fault is left out; None where the function has no such option."""
        value = self.node.get("on_error")
        return None if value is None else value == OnError.skip


def build_source(dataset: Source | dict[str, Any]) -> Source:
    """Return the source that `dataset` chooses, which is a custom one where it is a dictionary."""
    if isinstance(dataset, dict):
        return CustomSource(dataset)
    parts = {
        name: replace(part, source=build_source(part.source))
        for name, part in dataset.mixed_parts().items()
    }
    return replace(dataset, parts=parts) if isinstance(dataset, Mixture) else dataset


def load_splits(config: RunConfig, training: bool = True) -> Splits:
    """Load the rows of both splits; the main process fills the cache for the others.

    Args:
        config: names the source.
        training: False reads the validation split alone where nothing of the training split is needed;
            the other one is empty then.

    Raises:
        UserError: the source's own; or a split is empty.
    """
    source = build_source(config.dataset)
    if training and not source.has_train:
        raise UserError(
            "dataset.train is missing: dataset.train=FILE, or the name of the split to train on."
        )
    alone = not training and not _needs_train(source, config.task)
    splits = main_first(source.for_validation().load if alone else source.load)
    if alone:
        # Where the validation split stood for the training split, its faults are listed twice.
        skipped = tuple(dict.fromkeys(splits.skipped))
        splits = Splits(splits.train.select([]), splits.validation, skipped)
    for name, rows in (("train", splits.train), ("validation", splits.validation)):
        if len(rows) == 0 and (training or name == "validation"):
            raise UserError(f"The {name} split has no rows.")
    if splits.skipped:
        first, count = splits.skipped[0], len(splits.skipped)
        log.warning("warning: faults left out of the data: %d; the first: %s", count, first)
    return splits


def _needs_train(source: Source, task: object) -> bool:
    """Return whether a task takes its classes or its mask codec from the training split."""
    parts = source.mixed_parts().values() or [Part(source, task)]
    return any(
        isinstance(part.task, ObjectsOptions) and part.task.needs_training_rows and part.source.has_train
        for part in parts
    )


def build_task(config: RunConfig, splits: Splits, codec: bool = True) -> Task:
    """Build the task, or those of a mixture's parts.

    Args:
        config: of the run.
        splits: its rows.
        codec: False builds a task that measures masks but can neither write nor read them, so that no
            weights are fetched or trained.

    Raises:
        UserError: the rows lack what a task reads, or parts of a mixture write masks with different codecs.
    """
    parts: Mapping[str, Part] = {} if isinstance(config.dataset, dict) else config.dataset.mixed_parts()
    if not parts:
        task: Task = instantiate(config.task, "task")
        rows = {"": splits.train if len(splits.train) else splits.validation}
    else:
        task = MixedTask({name: instantiate(part.task, "task") for name, part in parts.items()})
        rows = {name: _part_rows(splits, name) for name in parts}
    tasks = {name: _take_classes(part, rows[name]) for name, part in object_tasks(task).items()}
    tasks = _find_codec(tasks, splits.train, codec)
    # What is scored is read as the metric reads it.
    metric = find_object_metric(build_metric(config))
    if metric is not None and metric.reader.official:
        for name, part in tasks.items():
            tasks[name] = replace(part, reader=replace(part.reader, official=True))
    return MixedTask({**task.tasks, **tasks}) if isinstance(task, MixedTask) else tasks.get("", task)


def _part_rows(splits: Splits, part: str) -> Dataset:
    """Return the rows of a mixture's part to train on, or those to evaluate on where there are none."""
    train, validation = (
        split.select(part_ranges(split).get(part, range(0))) for split in (splits.train, splits.validation)
    )
    return train if len(train) else validation


def _take_classes(task: ObjectsTask, rows: Dataset) -> ObjectsTask:
    """Give a task the classes of its rows, unless it names its own."""
    options = task.options
    if options.labels is not None and len(set(options.labels)) < len(options.labels):
        raise UserError(f"task.labels names a class twice: {list_names(options.labels)}.")
    if not options.needs_classes:
        return task
    # The column that `one` reads is made later.
    whole = replace(options, classes=PromptClasses.all)
    replace(task, options=whole).check_columns(rows.column_names)
    labels = find_labels(rows)
    if not labels and options.write_label:
        raise UserError(
            "The classes are those of the training split, and no row of it has an object. Name them: "
            "task.labels=[cat,dog]."
        )
    return replace(task, options=replace(options, labels=list(labels)))


def _find_codec(tasks: Mapping[str, ObjectsTask], train: Dataset, codec: bool) -> dict[str, ObjectsTask]:
    """Replace the setting of the mask codec by its file, the same for all parts of a mixture."""
    masked = {name: task for name, task in tasks.items() if task.options.masks}
    settings = {task.options.mask_vae for task in masked.values()}
    if not settings:
        return dict(tasks)
    setting = settings.pop()
    if settings:
        named = (f"{name}: task.mask_vae={task.options.mask_vae}" for name, task in masked.items())
        raise UserError(
            f"A run has one mask codec, but the parts of the mixture name several: {', '.join(named)}."
        )
    if setting is None:
        raise UserError("Masks need task.mask_vae: published, own, or a file of weights.")
    file = None
    if codec:
        ranges = part_ranges(train)
        rows = train.select([i for name in masked for i in ranges.get(name, ())]) if ranges else train
        file = str(main_first(lambda: find_mask_vae(setting, rows)))
    readers = {name: replace(task.reader, mask_vae=file) for name, task in masked.items()}
    return {**tasks, **{name: replace(task, reader=readers[name]) for name, task in masked.items()}}


RECORDED = re.compile(r"(.*\.)?task\.labels|evaluation\.max_new_tokens")
"""Keys of a run's `config.yaml` that hold what was taken from its data where the run was given null."""


def record_data(launch: Launch, task: Task) -> Launch:
    """Write into what becomes the run's `config.yaml` what was taken from its data: the classes.

    Evaluated or repeated, the run then asks for the same classes in the same order, whatever its data
    have become.

    Args:
        launch: its recipe is the text of `config.yaml`.
        task: the run's, or a mixture's.

    Returns:
        The launch with `task.labels`, or those of each part's task, in its recipe.
    """
    recipe = OmegaConf.create(launch.recipe)
    for name, part in object_tasks(task).items():
        if part.options.labels is not None:
            node = recipe.dataset.parts[name].task if name else recipe.task
            node.labels = part.options.labels
    comments = [line for line in launch.recipe.splitlines() if line.startswith("#")]
    return replace(launch, recipe="\n".join([*comments, OmegaConf.to_yaml(recipe)]))
