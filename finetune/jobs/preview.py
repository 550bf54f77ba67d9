"""Look at the data before a training, without reading any weights.

Writes preview.html, one file without scripts that needs no network: examples from a real batch (the resized
and augmented image, boxes and masks as the label tokens say, every token with its attention and label),
lengths, answers, classes and box sizes in plots, and what is wrong or doubtful. The examples are PNG files
too.

Every row is checked as before a training, and some images are decoded. With validate=true all images are
decoded, on all cores: the exit code is 0 where the data are clean and 1 where something has a fault. The
findings name file and line, and are all in findings.jsonl; dataset.on_error=skip hides none of them.
"""

import logging
import shlex
import time
from dataclasses import asdict

from finetune.assembly.doubts import find_doubts
from finetune.assembly.preview import Shown, describe_split, show_examples
from finetune.assembly.review import Review, review_data
from finetune.assembly.sources import build_source
from finetune.assembly.trainer import build_run_metric
from finetune.config.jobs import Preview
from finetune.data.examples.summary import Summary, summarize
from finetune.example import RowFinding
from finetune.model.load import load_processor
from finetune.processes import join_processes
from finetune.report.preview import render_preview
from finetune.result import PreviewResult
from finetune.run.files import write_jsonl, write_text
from finetune.run.folder import Launch
from finetune.run.out_folder import OutFolder

log = logging.getLogger(__name__)


def run(options: Preview, launch: Launch) -> PreviewResult:
    """Check the data and write the page.

    Raises:
        UserError: a mistake in the options, a file that cannot be read at all, or no usable row.
    """
    join_processes()
    folder = OutFolder(launch.folder, "preview")
    folder.check(overwrite=options.overwrite)
    metric = build_run_metric(options)
    processor = load_processor(options.model.path, options.model.revision)
    side = int(processor.image_processor.size["height"])
    started = time.monotonic()
    review = review_data(options, processor, metric, every_image=options.validate)
    seconds = time.monotonic() - started
    summaries = {name: summarize(split.survey, split.collator) for name, split in review.splits.items()}
    findings = [*review.findings, *find_doubts(options, review, summaries, side)]
    shown = {name: show_examples(options, split, options.examples) for name, split in review.splits.items()}
    page = _render(options, launch, review, summaries, findings, shown, side)
    write(folder, page, shown, findings, overwrite=options.overwrite)
    return PreviewResult(folder.root, findings, review.rows, review.images, seconds, options.validate)


def _render(
    options: Preview,
    launch: Launch,
    review: Review,
    summaries: dict[str, Summary],
    findings: list[RowFinding],
    shown: dict[str, list[Shown]],
    side: int,
) -> str:
    source = build_source(options.dataset)
    facts: dict[str, object] = {
        "command": shlex.join(launch.command),
        "model": f"{options.model.path}, images of {side} x {side} pixels",
        **{
            name: f"{len(split.survey):,} rows ({source.describe(name)})"
            for name, split in review.splits.items()
        },
    }
    splits = [
        describe_split(options, split, summaries[name], side) for name, split in review.splits.items()
    ]
    examples = [example.page for split in shown.values() for example in split]
    return render_preview(f"Preview of {launch.folder.name}", facts, findings, examples, splits)


def write(
    folder: OutFolder,
    page: str,
    shown: dict[str, list[Shown]],
    findings: list[RowFinding],
    *,
    overwrite: bool,
) -> None:
    """Write the files of a preview.

    Raises:
        UserError: the folder was taken meanwhile, or the disk is full.
    """
    with folder.writing(overwrite=overwrite) as target:
        (target / "pictures").mkdir()
        for name, split in shown.items():
            for number, example in enumerate(split):
                example.picture.save(target / f"pictures/{name}-{number:03d}.png")
        write_jsonl(target / "findings.jsonl", map(asdict, findings))
        write_text(target / "preview.html", page)
