"""The rows of a run and the task that reads them."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from omegaconf import OmegaConf

from finetune.assembly.custom import instantiate, object_options
from finetune.assembly.mask_codec import find_mask_vae
from finetune.config.schema import RunConfig
from finetune.data.examples.classes import find_labels
from finetune.data.examples.mixture import part_ranges
from finetune.data.options import Mixture, OnError, Part, Source
from finetune.data.rows import Splits, follow_links
from finetune.errors import UserError
from finetune.generation.options import EvaluationConfig
from finetune.metrics.metric import Metric
from finetune.metrics.several import find_object_metric
from finetune.processes import main_first
from finetune.run.folder import Launch
from finetune.tasks.mixture import MixedTask, replace_parts
from finetune.tasks.objects import ObjectsTask, PromptClasses, list_names, object_tasks
from finetune.tasks.task import Task, TaskOptions

log = logging.getLogger(__name__)


@dataclass
class CustomSource(Source):
    """Rows from a custom function."""

    node: dict[str, Any]
    """`_target_`, and its arguments."""

    def load(self) -> Splits:
        """Call the function.

        Raises:
            UserError: it cannot be called, or does not return `Splits`.
        """
        splits = instantiate(self.node)
        if not isinstance(splits, Splits):
            raise UserError(f"dataset._target_ must return Splits(train, validation), got {splits!r}.")
        # The shipped readers resolve links; a custom function may not.
        return follow_links(splits)

    def describe(self, split: str) -> str:
        """Return the function's name."""
        return str(self.node["_target_"]).rpartition(".")[2]

    @property
    def has_train(self) -> bool:
        """Whether the argument `train`, if there is one, is not None."""
        return self.node.get("train", True) is not None

    @property
    def skips_faults(self) -> bool | None:
        """Whether rows with faults are left out; None if the function has no such argument."""
        value = self.node.get("on_error")
        return None if value is None else value == OnError.skip


def build_source(dataset: Source | dict[str, Any]) -> Source:
    """Return the source that `dataset` describes; a dictionary describes a custom one."""
    if isinstance(dataset, dict):
        return CustomSource(dataset)
    built = {
        name: replace(part, source=build_source(part.source))
        for name, part in dataset.mixed_parts().items()
    }
    return replace(dataset, parts=built) if isinstance(dataset, Mixture) else dataset


def load_splits(config: RunConfig, training: bool = True) -> Splits:
    """Load the rows of both splits, and warn of faults that were left out of them; see `read_splits`."""
    splits = read_splits(config, training)
    if splits.skipped:
        first, count = splits.skipped[0], len(splits.skipped)
        log.warning("warning: faults left out of the data: %d; the first: %s", count, first)
    return splits


def read_splits(config: RunConfig, training: bool = True) -> Splits:
    """Load the rows of both splits; the main process fills the cache for the others.

    Args:
        config: names the source.
        training: False reads only the validation split, unless the task needs rows of the training split;
            the training split is then empty.

    Raises:
        UserError: the source cannot be read, or a split is empty.
    """
    source = build_source(config.dataset)
    if training and not source.has_train:
        raise UserError(
            "dataset.train is missing: dataset.train=FILE, or the name of the split to train on."
        )
    alone = not training and not _needs_train(source, config.task)
    splits = main_first(source.for_validation().load if alone else source.load)
    if alone:
        # A source may have read the validation split in place of the training split too: list faults once.
        skipped = tuple(dict.fromkeys(splits.skipped))
        splits = Splits(splits.train.select([]), splits.validation, skipped)
    for name, rows in (("train", splits.train), ("validation", splits.validation)):
        if len(rows) == 0 and (training or name == "validation"):
            raise UserError(f"The {name} split has no rows.")
    return splits


def choose_test(config: RunConfig) -> Source:
    """Return the source with its test split in place of the validation split.

    Raises:
        UserError: it has none.
    """
    source = build_source(config.dataset).for_test()
    if source is None:
        raise UserError("split=test: the data have no test split. Name it: dataset.test=FILE.")
    return source


def load_test(config: RunConfig) -> Splits | None:
    """Load the rows of the test split, as the validation split of the result; None without one.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    if build_source(config.dataset).for_test() is None:
        return None
    splits = main_first(choose_test(config).load)
    if len(splits.validation) == 0:
        raise UserError("The test split has no rows.")
    # Both splits of the source are the test split: list faults once.
    return Splits(splits.train.select([]), splits.validation, tuple(dict.fromkeys(splits.skipped)))


def _needs_train(source: Source, task: TaskOptions | dict[str, Any]) -> bool:
    """Return whether a task needs the classes or masks of the training split."""
    parts = source.mixed_parts().values() or [Part(source, task)]
    with_train = (object_options(part.task) for part in parts if part.source.has_train)
    return any(options is not None and options.needs_training_rows for options in with_train)


def build_task(config: RunConfig, splits: Splits, codec: bool = True) -> Task:
    """Build the task, or the tasks of a mixture's parts.

    Args:
        config: options of the run.
        splits: rows of the run.
        codec: False builds a task that measures masks but can neither write nor read them, so that no
            weights are downloaded or trained.

    Raises:
        UserError: a column is missing, or the parts of a mixture use different mask codecs.
    """
    parts: Mapping[str, Part] = {} if isinstance(config.dataset, dict) else config.dataset.mixed_parts()
    if not parts:
        task: Task = instantiate(config.task, "task")
        rows = {"": splits.train if len(splits.train) else splits.validation}
    else:
        task = MixedTask({name: instantiate(part.task, "task") for name, part in parts.items()})
        rows = {name: _part_rows(splits, name) for name in parts}
    tasks = {name: _take_classes(part, rows[name]) for name, part in object_tasks(task).items()}
    return replace_parts(task, _find_codec(tasks, splits.train, codec))


def read_as_scored(task: Task, metric: Metric) -> Task:
    """Return the task with masks read as the metric's option says, because that changes the score."""
    compared = find_object_metric(metric)
    if compared is None or not compared.reader.official:
        return task
    parts = object_tasks(task).items()
    return replace_parts(
        task, {name: replace(part, reader=replace(part.reader, official=True)) for name, part in parts}
    )


def _part_rows(splits: Splits, part: str) -> Dataset:
    """Return the training rows of a mixture's part, or its validation rows if there are none."""
    train, validation = (
        split.select(part_ranges(split).get(part, range(0))) for split in (splits.train, splits.validation)
    )
    return train if len(train) else validation


def _take_classes(task: ObjectsTask, rows: Dataset) -> ObjectsTask:
    """Return the task with the classes of its rows, unless `task.labels` names them."""
    options = task.options
    if options.labels is not None and len(set(options.labels)) < len(options.labels):
        raise UserError(f"task.labels names a class twice: {list_names(options.labels)}.")
    if not options.needs_classes:
        return task
    # The column that `classes=one` reads is added later.
    whole = replace(options, classes=PromptClasses.all)
    replace(task, options=whole).check_columns(rows.column_names)
    labels = find_labels(rows)
    if not labels and options.write_label:
        raise UserError(
            "The classes are those of the training split, and no row of it has an object. Name them: "
            "task.labels=[cat,dog]."
        )
    return replace(task, options=replace(options, labels=list(labels)), classes_found=True)


def _find_codec(tasks: Mapping[str, ObjectsTask], train: Dataset, codec: bool) -> dict[str, ObjectsTask]:
    """Replace the setting of the mask codec by its file, which all parts of a mixture share."""
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
"""Keys of a run's `config.yaml` with values from its data where the run was given `null`."""


def record_data(launch: Launch, task: Task, evaluation: EvaluationConfig) -> Launch:
    """Record the values taken from the data in what becomes the run's `config.yaml`.

    An evaluation or repetition of the run then uses the same classes in the same order, even if its data
    change, and `predict` has the same longest answer without the data.

    Args:
        launch: has the recipe that becomes `config.yaml`.
        task: task of the run, or of its mixture.
        evaluation: see `settle_longest_answer`.

    Returns:
        The launch with `task.labels`, or those of each part's task, and `evaluation.max_new_tokens` in its
        recipe.
    """
    recipe = OmegaConf.create(launch.recipe)
    OmegaConf.update(recipe, "evaluation.max_new_tokens", evaluation.max_new_tokens)
    for name, part in object_tasks(task).items():
        if part.options.labels is not None:
            node = recipe.dataset.parts[name].task if name else recipe.task
            node.labels = part.options.labels
    return launch.with_recipe(recipe)
