"""The rows of a run and the task that reads them: what a run knows of its data."""

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from omegaconf import OmegaConf

from finetune.assembly.custom import call_target
from finetune.assembly.mask_codec import find_mask_vae
from finetune.config.datasets import MixtureDataset
from finetune.config.metrics import SegmentationMetric
from finetune.config.schema import RunConfig
from finetune.data.examples.classes import find_labels
from finetune.data.examples.mixture import first_rows, mix_splits, part_ranges
from finetune.data.rows import Splits, follow_links
from finetune.errors import UserError
from finetune.processes import main_first
from finetune.run.folder import Launch
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsTask, list_names
from finetune.tasks.task import Task, template_columns

log = logging.getLogger(__name__)


def load_splits(config: RunConfig, training: bool = True) -> Splits:
    """Load the rows of both splits; the main process fills the cache for the others.

    Args:
        config: names the source.
        training: False reads the validation split alone where nothing of the training split is needed;
            the other one is empty then.

    Raises:
        UserError: the source's own; or a split is empty.
    """
    if training and option_values(config.dataset).get("train", True) is None:
        raise UserError(
            "dataset.train is missing: dataset.train=FILE, or the name of the split to train on."
        )
    alone = not training and not _needs_train(config)
    splits = main_first(lambda: _load_validation(config.dataset) if alone else _load_source(config.dataset))
    if not isinstance(splits, Splits):
        raise UserError(f"dataset._target_ must return Splits(train, validation), got {splits!r}.")
    for name, rows in (("train", splits.train), ("validation", splits.validation)):
        if len(rows) == 0 and (training or name == "validation"):
            raise UserError(f"The {name} split has no rows.")
    if splits.skipped:
        first, count = splits.skipped[0], len(splits.skipped)
        log.warning("warning: faults left out of the data: %d; the first: %s", count, first)
    return splits


def _load_source(node: Any) -> Any:
    """Load one source, or each of a mixture's."""
    if not isinstance(node, MixtureDataset):
        splits = call_target(node)
        # Of rows that a function of the user's made, nothing has followed the links yet.
        custom = isinstance(splits, Splits) and not is_dataclass(node)
        return follow_links(splits) if custom else splits
    parts = {}
    for name, part in node.parts.items():
        splits = _load_source(part["source"])
        parts[name] = splits._replace(train=first_rows(splits.train, part.get("limit")))
    return mix_splits(parts)


def _load_validation(node: Any) -> Any:
    """Load the validation split of a source, or of each of a mixture's."""
    if isinstance(node, MixtureDataset):
        parts = {name: _load_validation(part["source"]) for name, part in node.parts.items()}
        splits = mix_splits({name: part._replace(train=part.validation) for name, part in parts.items()})
    else:
        values = option_values(node)
        if "validation_fraction" in values and values["validation"] is None and values["train"]:
            _check_share(values)
        splits = call_target(_without_train(values))
        if not isinstance(splits, Splits):
            return splits
    # Where the validation split stood for the training split, its faults are listed twice.
    return Splits(splits.train.select([]), splits.validation, tuple(dict.fromkeys(splits.skipped)))


def _check_share(values: Mapping[str, Any]) -> None:
    fraction = values["validation_fraction"]
    if fraction is not None and not Path(values["train"]).exists():
        raise UserError(
            f"No file {values['train']}. The validation split is a share of it "
            f"(dataset.validation_fraction={fraction}): say where it is now (dataset.train=FILE), or name "
            "another file to evaluate on (dataset.validation=FILE dataset.validation_fraction=null)."
        )


def _without_train(values: dict[str, Any]) -> dict[str, Any]:
    """Return a source's options so that it reads its validation split alone, where it can."""
    if "validation_fraction" in values:
        validation = values["validation"]
        if values["_target_"].endswith(".load_yolo") and values["validation_fraction"] is None:
            return {**values, "train": None, "validation": validation or values["train"]}
        # Every format reads two files; the second time the same one comes from the cache.
        return (
            values if validation is None else {**values, "train": validation, "validation_fraction": None}
        )
    if "hub" in values:
        return {**values, "train": None, "hub": {**values["hub"], "train": None}}
    return {**values, "train": None} if "data_files" in values else values


def option_values(node: Any) -> dict[str, Any]:
    """Return the options of a dataset or task by name; a mixture's parts may be plain dictionaries."""
    return asdict(node) if is_dataclass(node) and not isinstance(node, type) else dict(node)


def _needs_train(config: RunConfig) -> bool:
    """Return whether a task takes its classes or its mask codec from the training split."""
    parts = config.dataset.parts.values() if isinstance(config.dataset, MixtureDataset) else None
    pairs = [(config.dataset, config.task)] if parts is None else [(p["source"], p["task"]) for p in parts]
    for source, node in pairs:
        task, given = option_values(node), option_values(source).get("train", True)
        classes = "labels" in task and task["labels"] is None and _reads_classes(task)
        if given is not None and (classes or (task.get("masks") and task.get("mask_vae") == "own")):
            return True
    return False


def _reads_classes(task: Mapping[str, Any]) -> bool:
    """Return whether the classes of a task of objects stand in its prompt or in its answers."""
    named = "labels" in template_columns(task["prompt"])
    return bool(named or task["write_label"] or task["classes"] == "one")


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
    if not isinstance(config.dataset, MixtureDataset):
        tasks = {"": _take_classes(call_target(config.task, "task"), splits)}
    else:
        tasks = {}
        for name, part in config.dataset.parts.items():
            rows = [
                split.select(part_ranges(split).get(name, range(0)))
                for split in (splits.train, splits.validation)
            ]
            tasks[name] = _take_classes(call_target(part["task"], "task"), Splits(*rows))
    tasks = _find_codec(tasks, splits.train, codec)
    if isinstance(config.metric, SegmentationMetric):
        # What is scored is read as the metric reads it.
        tasks = {
            name: replace(task, reading=config.metric.reading) if isinstance(task, ObjectsTask) else task
            for name, task in tasks.items()
        }
    return MixedTask(tasks) if isinstance(config.dataset, MixtureDataset) else tasks[""]


def _take_classes(task: Task, splits: Splits) -> Task:
    """Give a task of objects the classes of the training split, unless it names its own."""
    if not isinstance(task, ObjectsTask):
        return task
    if task.labels is not None and len(set(task.labels)) < len(task.labels):
        raise UserError(f"task.labels names a class twice: {list_names(task.labels)}.")
    if task.labels is not None or not _reads_classes(vars(task)):
        return task
    rows = splits.train if len(splits.train) else splits.validation
    replace(task, classes="all").check_columns(rows.column_names)  # the column of `one` is made later
    labels = find_labels(rows)
    if not labels and task.write_label:
        raise UserError(
            "The classes are those of the training split, and no row of it has an object. Name them: "
            "task.labels=[cat,dog]."
        )
    return replace(task, labels=labels)


def name_source(node: Any, split: str) -> str:
    """Return where the rows of a split come from, for messages: a file, or a dataset and its split."""
    values = {} if isinstance(node, MixtureDataset) else option_values(node)
    if "validation_fraction" in values:
        return str(values[split] or values["train"])
    if "release" in values:
        return f"{values['release']} {values[split]}"
    if "data_files" in values:
        return f"{values['path']} {values[split]}"
    return str(values.get("_target_", "dataset.parts")).rpartition(".")[2]


def _find_codec(tasks: Mapping[str, Task], train: Dataset, codec: bool) -> dict[str, Task]:
    """Replace the setting of the mask codec by its file, the same for all parts of a mixture."""
    masked = {name: task for name, task in tasks.items() if isinstance(task, ObjectsTask) and task.masks}
    settings = {task.mask_vae for task in masked.values()}
    if not settings:
        return dict(tasks)
    setting = settings.pop()
    if settings:
        raise UserError(
            "A run has one mask codec, but the parts of the mixture name several: "
            f"{', '.join(f'{name}: task.mask_vae={task.mask_vae}' for name, task in masked.items())}."
        )
    if setting is None:
        raise UserError("Masks need task.mask_vae: published, own, or a file of weights.")
    file = None
    if codec:
        ranges = part_ranges(train)
        rows = train.select([i for name in masked for i in ranges.get(name, ())]) if ranges else train
        file = str(main_first(lambda: find_mask_vae(setting, rows)))
    return {**tasks, **{name: replace(task, mask_vae=file) for name, task in masked.items()}}


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
    tasks = task.tasks if isinstance(task, MixedTask) else {"": task}
    recipe = OmegaConf.create(launch.recipe)
    for name, one in tasks.items():
        if isinstance(one, ObjectsTask) and one.labels is not None:
            node = recipe.dataset.parts[name].task if name else recipe.task
            node.labels = list(one.labels)
    comments = [line for line in launch.recipe.splitlines() if line.startswith("#")]
    return replace(launch, recipe="\n".join([*comments, OmegaConf.to_yaml(recipe)]))
