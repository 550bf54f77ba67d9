"""The jobs: the options that each adds to a recipe's, and the recipe's options that it reads.

`JOB --help` prints the options that a job reads. Any other is refused, because it would have no effect.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from finetune.config.schema import RunConfig
from finetune.generation.options import GenerationOptions
from finetune.option import MAY_BE_EMPTY, Range, option
from finetune.publish.options import PushAtEnd, PushOptions

_PARTS = r"(dataset|task|metrics?)([.@].*)?"
_MODEL = (
    r"(model([.].*)?|adapter(_revision|_base)?|trainer[.](bf16|fp16)"
    r"|peft|peft[.](bits|quantize|double_quant))"
)
_ANSWERS = rf"(image[.].*|evaluation[.]({'|'.join(field.name for field in fields(GenerationOptions))}))"


class EvaluatedSplit(StrEnum):
    """Splits that `evaluate` scores."""

    validation = "validation"
    test = "test"


class MergedDtype(StrEnum):
    """Formats of a merged model."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class MergedBase(StrEnum):
    """What an adapter that was trained on quantized weights is merged into."""

    quantized = "quantized"
    original = "original"


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
class _OfRun(Job):
    """Options of the jobs that may be given a run."""

    run: str | None = None
    """Folder of a run: `evaluate` scores it, `predict` and `demo` ask it, `plan` shows it, `report` writes
    its page, `merge` makes one model of it, `push` publishes it, and `train` continues it with
    `resume=true`."""

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
class Evaluate(_InFolder):
    """Score a finished run (run=FOLDER), or model=ID adapter=ID_OR_FOLDER."""

    split: EvaluatedSplit = EvaluatedSplit.validation
    """The split to score; `test` is the one that `dataset.test` names."""

    reads = (
        f"runs_dir|check_images|collator[.]max_text_length|{_PARTS}|{_MODEL}|{_ANSWERS}"
        "|evaluation[.](limit|loss|pictures|blank_.*)|trainer[.]dataloader_num_workers|report[.].*|published.*"
    )


@dataclass
class Asking(_OfRun):
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

    reads = f"task([.@].*)?|{_MODEL}|{_ANSWERS}"
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
class Demo(Asking):
    """Show a run on a page in the browser (run=FOLDER), or write it as a Space (export=FOLDER)."""

    host: str = "127.0.0.1"
    """Address that the page is served at. With the default only this machine reaches it; `0.0.0.0` is for
    the whole network, without a password."""
    port: int | None = option(7860, Range(0, 65535))
    """Port of the page. `null` or 0: any free one."""
    examples: int = option(8, Range(0, 100))
    """Validation examples that are offered on the page; 0 for none."""
    max_upload_mb: float = option(20.0, Range(0.001, 10_000))
    """Largest image file that may be uploaded, in megabytes (10^6 bytes)."""
    max_images: int = option(50, Range(1, 10_000))
    """Most images that may be asked about at once."""
    export: str | None = None
    """Folder to write as a Space of the Hub, which shows the same page; nothing is served."""
    repo: str | None = None
    """With `export=`: the published adapter or model (`USER/NAME`) that the Space loads. `null`: the
    weights are copied into the Space."""
    overwrite: bool = False
    """Replace the Space in the folder `export=`; other files in it are kept."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that exclude each other."""
        yield from super().problems(prefix)
        for name in ("repo", "overwrite"):
            if getattr(self, name) and self.export is None:
                yield f"{name}= is about the folder of a Space: it needs export=FOLDER."
        if self.export is not None and self.run is None:
            yield "export= writes the Space of a run: it needs run=FOLDER."


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
class Report(_OfRun):
    """Write the page of a finished run again (run=FOLDER): report.html and report.md."""

    reads = "report[.].*|published.*"
    needs_data = False


@dataclass
class Reproduce(Job):
    """Score a run or a published result again, and say what differs (card=FOLDER or card=USER/NAME)."""

    card: str | None = None
    """Folder of a run or of a result that was pushed, or `USER/NAME` or `USER/NAME@REVISION` on the Hub."""
    train: bool = False
    """Train again too, instead of scoring the weights that are there."""
    run_name: str | None = option(None, MAY_BE_EMPTY)
    """Name of the folder for the new scores. `null`: the card's with `_reproduce`."""
    overwrite: bool = False
    """Delete the run in its folder first."""

    # Where things are may change; any other setting would be another result.
    reads = (
        "runs_dir|check_images|dataset[.].*|model|model[.]path|adapter|evaluation[.](batch_size|pictures)"
        "|trainer[.]dataloader_.*|report[.].*"
    )

    def folder(self, name: str) -> Path:
        """Return the folder for the new scores."""
        card = Path((self.card or "").partition("@")[0])
        return Path(self.runs_dir) / (self.run_name or f"{card.resolve().name}_reproduce")


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


@dataclass
class Push(PushOptions, _OfRun):
    """Publish a finished run on the Hub (run=FOLDER repo=USER/NAME)."""

    dry_run: bool = False
    """Write the folder that would be pushed, and send nothing; needs neither a token nor a network."""
    out: str | None = None
    """Folder for the dry run. `null`: `published/` and the run's name."""
    overwrite: bool = False
    """Replace the dry run in its folder."""

    reads = "runs_dir"
    needs_data = False

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that the Hub would not accept or that have no effect."""
        yield from PushOptions.problems(self, prefix)
        for name, given in (("out=", self.out is not None), ("overwrite=true", self.overwrite)):
            if given and not self.dry_run:
                yield f"{name} is of the folder that a dry run writes: add dry_run=true."
        if self.repo is None and not self.dry_run:
            yield "Where to? repo=USER/NAME is missing (dry_run=true only shows what would be sent)."


@dataclass
class Merge(_OfRun):
    """Merge an adapter into its base, as a plain model for any program (run=FOLDER out=FOLDER)."""

    out: str | None = None
    """Folder for the model, which `from_pretrained` of transformers loads without PEFT."""
    dtype: MergedDtype = MergedDtype.bfloat16
    """Format of the merged weights. bfloat16 is the format of published checkpoints and rounds each weight
    once; float32 needs twice the space and answers as the adapter does."""
    into: MergedBase | None = None
    """For an adapter on quantized weights (QLoRA): `quantized` merges into the values that it was trained
    on, so that the answers stay; `original` into those of the checkpoint, from which these were rounded.
    `null`: `quantized`."""
    examples: int = option(8, Range(1, 10_000))
    """Examples of the validation split on which the merged model is compared with the adapter; without
    them, images of noise."""
    overwrite: bool = False
    """Replace the merged model in `out=`; other files in it are kept."""

    reads = f"runs_dir|check_images|{_MODEL}|{_ANSWERS}"
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
