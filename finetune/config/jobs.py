"""The jobs: the options that each adds to a recipe's, and the recipe's options that it reads.

`JOB --help` prints the options that a job reads. Any other is refused, because it would have no effect.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from finetune.config.schema import RunConfig
from finetune.generation.options import GenerationOptions
from finetune.option import MAY_BE_EMPTY, option

_PARTS = r"(dataset|task|metrics?)([.@].*)?"
_MODEL = r"(model([.].*)?|adapter|trainer[.](bf16|fp16)|peft|peft[.](bits|quantize|double_quant))"
_ANSWERS = rf"(image[.].*|evaluation[.]({'|'.join(field.name for field in fields(GenerationOptions))}))"


class EvaluatedSplit(StrEnum):
    """Splits that `evaluate` scores."""

    validation = "validation"
    test = "test"


@dataclass
class Job(RunConfig):
    """A recipe; each job's class adds its options."""

    reads: ClassVar[str]
    """Regular expression of the recipe's keys that the job reads."""
    needs_data: ClassVar[bool] = True
    """Whether a dataset must be named; a job without one prints data on standard output."""

    def folder(self, name: str) -> Path:
        """Return the folder that the job reads or writes.

        Args:
            name: name of the recipe, or of the sweep and its member.
        """
        return Path(self.runs_dir) / name


@dataclass
class _OfRun(Job):
    """Options of the jobs that may be given a run."""

    run: str | None = None
    """Folder of a run: `evaluate` scores it, `predict` asks it, `plan` shows it, and `train` continues it
    with `resume=true`."""

    def folder(self, name: str) -> Path:
        """Return the run's folder."""
        return super().folder(name) if self.run is None else Path(self.run)


@dataclass
class _Named(_OfRun):
    """Options of the jobs that name a run's folder."""

    run_name: str | None = option(None, MAY_BE_EMPTY)
    """Name of the run's folder. `null`: the recipe's name (for `evaluate` with `_evaluate`)."""


@dataclass
class Plan(_Named):
    """Show what learns and how many steps there will be, without reading any weights."""

    reads = ".*"


@dataclass
class _InFolder(_Named):
    """Options of the jobs that write into a run's folder."""

    overwrite: bool = False
    """Delete the run in its folder first."""


@dataclass
class Train(_InFolder):
    """Train, evaluate, and leave an adapter (the default job)."""

    resume: bool = False
    """Continue the run in its folder from its last complete checkpoint."""

    reads = ".*"

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that exclude each other."""
        if self.resume and self.overwrite:
            yield "resume=true keeps the run in the folder, overwrite=true deletes it: choose one."


@dataclass
class Evaluate(_InFolder):
    """Score a finished run (run=FOLDER), or model=ID adapter=ID_OR_FOLDER."""

    split: EvaluatedSplit = EvaluatedSplit.validation
    """The split to score; `test` is the one that `dataset.test` names."""

    reads = (
        f"runs_dir|check_images|collator[.]max_text_length|{_PARTS}|{_MODEL}|{_ANSWERS}|evaluation[.](limit|loss|pictures)"
        "|trainer[.]dataloader_num_workers"
    )


@dataclass
class Predict(_OfRun):
    """Ask about your images (run=FOLDER image=FILE prefix=PROMPT)."""

    picture: str | None = None
    """An image file, or a folder of images."""
    prefix: str | None = option(None, MAY_BE_EMPTY)
    """The prompt."""
    out: str | None = None
    """Folder for copies of the images with the predicted boxes and masks drawn in."""

    reads = f"task([.@].*)?|{_MODEL}|{_ANSWERS}"
    needs_data = False


@dataclass
class Score(Job):
    """Score predictions from any model (metric=NAME predictions=FILE), from a file or stdin."""

    predictions: str | None = None
    """Prediction rows, as JSON lines or a JSON list, or COCO's results; `-` for standard input."""
    ground_truth: str | None = None
    """What the predictions are compared with, if it is in a file of its own: COCO's annotations, or rows
    that have the same `id`."""

    reads = "metrics?([.@].*)?"
    needs_data = False


@dataclass
class Doctor(Job):
    """Check this machine: versions, devices, kernels, the mask's leak test, disk, token."""

    reads = "runs_dir"
    needs_data = False


JOBS: dict[str, type[Job]] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "score": Score,
    "plan": Plan,
    "doctor": Doctor,
}
"""Job -> its options. `finetune/jobs/<name>.py` runs it; the class's docstring is its line in `--help`."""


_OF_RECIPE = {field.name for field in fields(RunConfig)}


def own_options(job: str) -> list[str]:
    """Return the options that a job adds to those of a recipe."""
    return [field.name for field in fields(JOBS[job]) if field.name not in _OF_RECIPE]


def has_option(job: str, key: str) -> bool:
    """Return whether a job reads an option; every job reads `recipe`."""
    if re.split(r"[.@]", key)[0] in _OF_RECIPE:
        return re.fullmatch(JOBS[job].reads, key) is not None
    return key in {"recipe", *own_options(job)}
