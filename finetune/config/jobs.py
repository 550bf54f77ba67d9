"""The jobs: the options that each adds to a recipe's, and the recipe's options that it reads.

`JOB --help` prints the options that a job reads. Any other is refused, because it would have no effect.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path

from finetune.config.job import ANSWERS, MODEL, PARTS, Asking, InFolder, Job, Named, OfRun
from finetune.config.publishing import Demo, Export, Merge, Push, Reproduce
from finetune.config.schema import RunConfig
from finetune.option import Range, option
from finetune.publish.options import PushAtEnd


class EvaluatedSplit(StrEnum):
    """Splits that `evaluate` scores."""

    validation = "validation"
    test = "test"


_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?(GB|GiB)")


@dataclass
class Plan(Named):
    """Show what learns, memory, operations, steps and time, without reading any weights."""

    fit: str | None = None
    """Memory of a GPU, such as `24GB` (10^9 bytes) or `24GiB` (2^30): propose batch, accumulation and
    activation checkpointing with which the training fits."""
    peak_tflops: float | None = option(None, Range(0, 1e6, above_least=True))
    """Rate of the device in 10^12 operations a second, for the time of the training. `null`: of a known
    GPU, or what matrix products on this machine reach."""

    reads = ".*"

    @property
    def fit_bytes(self) -> int | None:
        """The memory of `fit`, in bytes."""
        match = None if self.fit is None else _MEMORY.fullmatch(self.fit)
        return match and int(float(match[1]) * (10**9 if match[2] == "GB" else 2**30))

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield a memory that cannot be read."""
        if self.fit is not None and not self.fit_bytes:
            yield f"{prefix}fit={self.fit!r}: expected the memory of a GPU, such as 24GB or 22.5GiB."


@dataclass
class Train(InFolder):
    """Train, evaluate, and leave an adapter (the default job)."""

    resume: bool = False
    """Continue the run in its folder from its last complete checkpoint."""
    push: PushAtEnd = field(default_factory=PushAtEnd)

    reads = ".*"

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that exclude each other."""
        if self.resume and self.overwrite:
            yield "resume=true keeps the run in the folder, overwrite=true deletes it: choose one."


@dataclass
class Preview(Job):
    """Show the data as the model will see them, on a page; or check all of them (validate=true)."""

    examples: int = option(8, Range(1, 200))
    """Examples of each split, on the page and as PNG files: those that a training draws first."""
    validate: bool = False
    """Check every row and decode every image, on all cores. The exit code is 0 if the data are clean, 1 if
    something has a fault (all are in `findings.jsonl`), and 2 if a file cannot be read at all."""
    out: str | None = None
    """Folder to write. `null`: `previews/RECIPE`; with `data=FOLDER`, `previews/FOLDER`."""
    overwrite: bool = False
    """Replace the preview in its folder."""

    # The words of a training show its data: what does not concern them is no mistake.
    reads = ".*"

    def folder(self, name: str) -> Path:
        """Return the folder of the page."""
        return Path("previews") / name if self.out is None else Path(self.out)


@dataclass
class Evaluate(InFolder):
    """Score a finished run (run=FOLDER), or model=ID adapter=ID_OR_FOLDER."""

    split: EvaluatedSplit = EvaluatedSplit.validation
    """The split to score; `test` is the one that `dataset.test` names."""

    reads = (
        f"runs_dir|check_images|collator[.]max_text_length|{PARTS}|{MODEL}|{ANSWERS}"
        "|evaluation[.](limit|loss|pictures|blank_.*)|report[.].*|published.*"
        "|trainer[.](dataloader_num_workers|speed[.](feature|pixel)_cache)"
    )


@dataclass
class Predict(Asking):
    """Ask about your images (run=FOLDER image=FILE prefix=PROMPT)."""

    picture: str | None = None
    """An image file, a folder of images, a pattern such as `"photos/*.jpg"`, or several of these with
    commas between them."""
    prompts: str | None = None
    """A JSONL file with a prompt a line: `image` (relative to the file, or to the current folder; missing:
    every image of `image=`), and `prefix` or the fields of the task's prompt."""
    out: str | None = None
    """Folder for the answers, in `predictions.jsonl`, and for copies of the images with the predicted boxes
    and masks drawn in. The same command again goes on where it was stopped."""
    overwrite: bool = False
    """Forget the answers in `out=` and ask again; its other files are kept."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that exclude each other."""
        yield from super().problems(prefix)
        if self.overwrite and self.out is None:
            yield "overwrite=true needs out=: without it nothing is written."


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


@dataclass
class Report(OfRun):
    """Write the page of a finished run again (run=FOLDER): report.html and report.md."""

    reads = "report[.].*|published.*"
    needs_data = False


@dataclass
class Compare(Job):
    """Compare runs, or the runs of a sweep, in a table and a page (compare runs/a runs/b)."""

    runs: list[str] = field(default_factory=list)
    """Folders of runs, or of sweeps; `runs=` may be left out: `compare runs/a runs/b`."""
    out: str | None = None
    """Folder for compare.html and compare.csv. `null`: that of the sweep, or else `compare` in runs_dir."""

    reads = "runs_dir"
    bare = "runs"
    needs_data = False


JOBS: dict[str, type[Job]] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "demo": Demo,
    "score": Score,
    "plan": Plan,
    "preview": Preview,
    "doctor": Doctor,
    "report": Report,
    "compare": Compare,
    "reproduce": Reproduce,
    "merge": Merge,
    "push": Push,
    "export": Export,
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
    return re.split(r"[.@]", key)[0] in {"recipe", *own_options(job)}
