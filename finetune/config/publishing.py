"""The jobs that make a finished run usable elsewhere: their options."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from finetune.config.job import ANSWERS, MODEL, PARTS, Asking, Job, OfRun
from finetune.onnx.options import ExportDtype, ExportFormat
from finetune.option import MAY_BE_EMPTY, Range, option
from finetune.publish.options import PushOptions


class MergedDtype(StrEnum):
    """Formats of a merged model."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class MergedBase(StrEnum):
    """What an adapter that was trained on quantized weights is merged into."""

    quantized = "quantized"
    original = "original"


@dataclass
class Merge(OfRun):
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

    reads = f"runs_dir|check_images|{MODEL}|{ANSWERS}"
    needs_data = False


@dataclass
class Export(OfRun):
    """Write a run's result for browsers and other runtimes, adapter merged in (run=FOLDER out=FOLDER)."""

    out: str | None = None
    """Folder to write: `index.html`, a page that answers in the browser, and the files that Transformers.js
    and ONNX Runtime read."""
    format: ExportFormat = ExportFormat.onnx
    """`onnx`: three graphs, of the image, of the prompt's embedding and of the answer with its cache."""
    dtype: ExportDtype = ExportDtype.fp32
    """Weights: `fp32`, whose answers are the merged model's token by token, or `q8`: 8 bits, a quarter of
    the size, and answers that may differ; how many do is measured."""
    runtime: str | None = None
    """Folder `node_modules` with `@huggingface/transformers`, whose files the page needs; they are copied.
    `null`: README.md in the folder says how to add them."""
    overwrite: bool = False
    """Replace the export in `out=`; other files in it are kept."""

    reads = f"{PARTS}|runs_dir|check_images"
    needs_data = False


@dataclass
class Push(PushOptions, OfRun):
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
