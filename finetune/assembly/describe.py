"""Lines for the terminal and the log that describe a run."""

from pathlib import Path

from accelerate import PartialState

from finetune.assembly.sources import build_source
from finetune.config.schema import RunConfig
from finetune.data.examples.dataset import ExampleDataset
from finetune.tasks.objects import list_names, object_tasks
from finetune.tasks.task import Task


def describe_run(
    config: RunConfig,
    folder: Path,
    train: ExampleDataset | None,
    validation: ExampleDataset,
    test: ExampleDataset | None = None,
) -> str:
    """Return a few lines: model, device, run folder, rows, classes, and the first prompt and answer.

    Args:
        config: options of the run.
        folder: folder of the run.
        train: the training examples; None for a job that does not train.
        validation: the validation examples.
        test: the test examples, if there are any.
    """
    lines = [f"model {config.model.path} on {PartialState().device}; run folder {folder}"]
    splits = [split for split in (train, validation, test) if split is not None]
    sizes = [
        f"{len(split):,} {split.split} rows ({build_source(config.dataset).describe(split.split)})"
        for split in splits
    ]
    lines += [f"data: {', '.join(sizes)}", *_describe_classes(splits[0].task), _describe_first(splits[0])]
    return "\n".join(lines)


def _describe_classes(task: Task) -> list[str]:
    return [
        f"{f'{name}: ' if name else ''}{len(labels)} classes: {list_names(labels)}"
        for name, part in object_tasks(task).items()
        if (labels := part.options.labels)
    ]


def _describe_first(examples: ExampleDataset) -> str:
    """Return prompt and answer of the first row, with unprintable characters escaped."""
    row = next(iter(examples.iterate_rows()))
    text = examples.task.measure_text(row)
    return f"first example: {_show(text.prefix)} -> {_show(text.suffixes[0])}"


def _show(text: str, most: int = 100) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")
