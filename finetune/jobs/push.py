"""Publish a finished run on the Hub (run=FOLDER repo=USER/NAME), or see what would be (dry_run=true).

Sent are the weights with their processor, the model card, config.yaml, metrics.json, what a repetition
needs of environment.json, and report.html without images of the data; `include=` adds prediction rows or
the images. Nothing else leaves this machine: no checkpoints, logs, data or absolute paths, and nothing at
all if a file has a token or a password in it. The repository is private unless `private=false`. A push is
one commit; a second push of the same makes none.
"""

import logging
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

from finetune.config.jobs import Train
from finetune.config.publishing import Merge, Push
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.hub import is_transient
from finetune.jobs import merge
from finetune.model.load import TINY_BASE
from finetune.publish.card import CARD, is_edited, write_card
from finetune.publish.contents import Contents, collect
from finetune.publish.facts import read_facts
from finetune.publish.options import PushAtEnd, PushOptions, Weights
from finetune.publish.results import PushResult
from finetune.publish.upload import check_destination, push
from finetune.run.checkpoints import check_weights
from finetune.run.folder import Launch, RunFolder
from finetune.run.out_folder import OutFolder
from finetune.run.results import read_metrics

log = logging.getLogger(__name__)

MERGED_DTYPE = "bfloat16"
"""Format of the merged model that is pushed: that of published checkpoints."""


def run(options: Push, launch: Launch) -> PushResult:
    """Publish a run, or write the folder that would be published.

    Raises:
        UserError: the run is not finished, a file has a secret in it, or the Hub refuses it.
    """
    folder = RunFolder(launch.folder)
    find_result(folder)
    if not options.dry_run:
        return publish(options, options, folder)
    out = OutFolder(Path(options.out or f"published/{launch.folder.absolute().name}"), "push")
    out.check(overwrite=options.overwrite)
    with prepared(options, options, folder) as contents:
        with out.writing(overwrite=options.overwrite) as target:
            contents.write(target)
        sizes = contents.sizes
    return PushResult(None, None, sizes, changed=False, private=options.private, folder=out.root)


def check_at_end(options: PushAtEnd) -> None:
    """Check, before a training, that its result can be pushed; a network that is away is only reported.

    Raises:
        UserError: see `check_destination`.
    """
    if not options.at_end:
        return
    try:
        check_destination(options)
    except UserError as error:
        if error.__cause__ is None or not is_transient(error.__cause__):
            raise
        log.warning("warning: push.at_end=true: %s The training begins nevertheless.", error)


def push_at_end(options: Train, folder: RunFolder) -> PushResult | None:
    """Push the result of a training that has ended; a failure is part of the result, not its end."""
    if not options.push.at_end:
        return None
    try:
        return publish(options.push, options, folder)
    except UserError as error:
        again = shlex.join(
            ["python", "-m", "finetune", "push", f"run={folder.root}", *list_words(options.push)]
        )
        failure = f"{error}\nThe run is complete in {folder.root}. To push it again:\n  {again}"
        return PushResult(None, None, {}, changed=False, failure=failure)


def list_words(options: PushOptions) -> list[str]:
    """Return the words that give the job `push` the same options."""
    words = []
    for declared in fields(PushOptions):
        value, name = getattr(options, declared.name), declared.name
        if value != getattr(PushOptions(), name):
            text = f"[{','.join(value)}]" if isinstance(value, list) else str(value)
            words.append(f"{name}={text.lower() if isinstance(value, bool) else text}")
    return words


def publish(options: PushOptions, settings: RunConfig, folder: RunFolder) -> PushResult:
    """Push a finished run; everything is checked before anything is sent.

    Args:
        options: what is published, and where.
        settings: those of the run.
        folder: of the run.

    Raises:
        UserError: see `run`.
    """
    destination = check_destination(options)
    with prepared(options, settings, folder) as contents:
        log.info("pushing %d files to %s", len(contents.files), destination.repo)
        return push(contents, destination, f"Push {folder.root.absolute().name}")


def find_result(folder: RunFolder) -> Path:
    """Return the folder of a run's weights.

    Raises:
        UserError: the run has no result, or its weights are not those that it wrote.
    """
    digests = read_metrics(folder).get("result", {}).get("sha256")
    for result in (folder.adapter, folder.model):
        if digests is not None and result.is_dir():
            check_weights(result, digests)
            return result
    raise UserError(
        f"{folder.root} is not finished: it has no result to publish. Continue it with resume=true."
    )


@contextmanager
def prepared(options: PushOptions, settings: RunConfig, folder: RunFolder) -> Iterator[Contents]:
    """Yield the files of a push; a merged model is deleted after the block.

    Args:
        options: what is published.
        settings: those of the run.
        folder: of the run.

    Raises:
        UserError: a file is missing or has a secret in it, or the merged model does not agree.
    """
    result, base = find_result(folder), None
    merged = options.weights == Weights.merged
    if merged and result == folder.model:
        raise UserError(f"{folder.root} has a whole model, so there is nothing to merge: weights=run.")
    with ExitStack() as stack:
        if merged:
            # Next to the runs: a temporary folder may be too small for a model.
            scratch = tempfile.TemporaryDirectory(prefix=".push-", dir=folder.root.absolute().parent)
            result = merge_into(settings, folder, Path(stack.enter_context(scratch)) / "model")
        elif result == folder.adapter and settings.model.path == "tiny":
            base = TINY_BASE
        readme = write_readme(options, folder)
        form = MERGED_DTYPE if merged else None
        contents = collect(folder, result, readme, options.include, base, form)
        if contents.left_out:
            log.info("not sent: %s", ", ".join(contents.left_out))
        yield contents


def write_readme(options: PushOptions, folder: RunFolder) -> str:
    """Return the text of README.md: a card that names the repository, or the one that a user changed."""
    file = find_result(folder) / CARD
    own = file.read_text(encoding="utf-8") if file.is_file() else None
    if own is not None and is_edited(own):
        log.info("%s was changed by hand and is sent as it is", file)
        return own
    merged = MERGED_DTYPE if options.weights == Weights.merged else None
    return write_card(read_facts(folder.root), options.repo or "USER/NAME", merged)


def merge_into(settings: RunConfig, folder: RunFolder, target: Path) -> Path:
    """Merge a run's adapter into its base, and return the folder of the model.

    Raises:
        UserError: the merged model does not compute what the adapter computes.
    """
    shared = {one.name: getattr(settings, one.name) for one in fields(RunConfig)}
    shared |= {name: None for name in shared if name in {"adapter", "adapter_revision"}}
    options = Merge(**shared, run=str(folder.root), out=str(target))
    merge.run(options, Launch(folder.root, "", []), stays=False)
    return target
