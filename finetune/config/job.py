"""What the options of several jobs have in common."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from finetune.config.schema import RunConfig
from finetune.generation.options import GenerationOptions
from finetune.option import MAY_BE_EMPTY, option

PARTS = r"(dataset|task|metrics?)([.@].*)?"
MODEL = (
    r"(model([.].*)?|adapter(_revision|_base)?|trainer[.](bf16|fp16)"
    r"|peft|peft[.](bits|quantize|double_quant))"
)
ANSWERS = rf"(image[.].*|evaluation[.]({'|'.join(field.name for field in fields(GenerationOptions))}))"


@dataclass
class Job(RunConfig):
    """A recipe; each job's class adds its options."""

    reads: ClassVar[str]
    """Regular expression of the recipe's keys that the job reads."""
    bare: ClassVar[str | None] = None
    """Option whose values may stand on the command line by themselves, such as `compare runs/a runs/b`."""
    needs_data: ClassVar[bool] = True
    """Whether a dataset must be named; a job without one prints data on standard output."""

    def folder(self, name: str) -> Path:
        """Return the folder that the job reads or writes.

        Args:
            name: name of the recipe, or of the sweep and its member.
        """
        return Path(self.runs_dir) / name


@dataclass
class OfRun(Job):
    """Options of the jobs that may be given a run."""

    run: str | None = None
    """Folder of a run: `evaluate` scores it, `predict` and `demo` ask it, `plan` shows it, `report` writes
    its page, `merge` makes one model of it, `export` writes it for browsers, `push` publishes it, and
    `train` continues it with `resume=true`."""

    def folder(self, name: str) -> Path:
        """Return the run's folder."""
        return super().folder(name) if self.run is None else Path(self.run)


@dataclass
class Named(OfRun):
    """Options of the jobs that name a run's folder."""

    run_name: str | None = option(None, MAY_BE_EMPTY)
    """Name of the run's folder. `null`: the recipe's name (for `evaluate` with `_evaluate`)."""


@dataclass
class InFolder(Named):
    """Options of the jobs that write into a run's folder."""

    overwrite: bool = False
    """Delete the run in its folder first."""


@dataclass
class Asking(OfRun):
    """Options of the jobs that ask a model about images without rows of data."""

    prefix: str | None = option(None, MAY_BE_EMPTY)
    """The prompt. `null`: the prompt of the run's task, with the fields below in it."""
    question: str | None = None
    """The question in the prompt of the task, such as `answer en {question}`."""
    expression: str | None = None
    """What to find, in the prompt of a task about expressions."""
    labels: list[str] | None = None
    """The classes in the prompt of the task, such as `detect {labels}`. `null`: all of the task."""
    choices: list[str] | None = None
    """The choices, for a task of multiple choice."""

    reads = f"task([.@].*)?|{MODEL}|{ANSWERS}"
    needs_data = False

    @property
    def fields(self) -> dict[str, object]:
        """The given fields of the task's prompt."""
        values = {name: getattr(self, name) for name in ("question", "expression", "labels", "choices")}
        return {name: value for name, value in values.items() if value is not None}

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that exclude each other."""
        if self.prefix is not None and self.fields:
            names = " ".join(f"{name}=" for name in self.fields)
            yield f"prefix= is a whole prompt, {names} a part of the task's: choose one."
