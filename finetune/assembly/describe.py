"""Lines for the terminal and the log: what a run works on."""

from pathlib import Path

from accelerate import PartialState

from finetune.assembly.sources import name_source
from finetune.config.datasets import MixtureDataset
from finetune.config.schema import RunConfig
from finetune.data.examples.dataset import ExampleDataset
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsTask, list_names
from finetune.tasks.task import Task


def describe_run(
    config: RunConfig, folder: Path | None, train: ExampleDataset | None, validation: ExampleDataset
) -> str:
    """Return a few lines: model, device, run folder, rows, classes, and the first prompt and answer.

    Args:
        config: of the run.
        folder: its folder; None: nothing is written.
        train: the examples to train on; None: there is no training.
        validation: the examples to evaluate on.
    """
    place = "" if folder is None else f"; run folder {folder}"
    lines = [f"model {config.model.path} on {PartialState().device}{place}"]
    splits = [split for split in (train, validation) if split is not None]
    sizes = [f"{len(split):,} {split.split} rows ({_name_rows(config, split)})" for split in splits]
    lines += [f"data: {', '.join(sizes)}", *_describe_classes(splits[0].task), _describe_first(splits[0])]
    return "\n".join(lines)


def _name_rows(config: RunConfig, split: ExampleDataset) -> str:
    if isinstance(config.dataset, MixtureDataset):
        return " + ".join(config.dataset.parts)
    return name_source(config.dataset, split.split)


def _describe_classes(task: Task) -> list[str]:
    tasks = task.tasks.items() if isinstance(task, MixedTask) else [("", task)]
    return [
        f"{f'{name}: ' if name else ''}{len(task.labels)} classes: {list_names(task.labels)}"
        for name, task in tasks
        if isinstance(task, ObjectsTask) and task.labels
    ]


def _describe_first(examples: ExampleDataset) -> str:
    """Return prompt and answer of the first row, with everything that is not printable escaped."""
    row = next(iter(examples.iterate_rows()))
    text = examples.task.measure_text(row)
    return f"first example: {_show(text.prefix)} -> {_show(text.suffixes[0])}"


def _show(text: str, most: int = 100) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")
