"""Score a run or a published result again, and say whether it is the same (card=FOLDER or card=USER/NAME).

A run, a folder that `push dry_run=true` wrote, or a repository on the Hub says with which settings, data,
base and versions its scores were made. They are computed again here, into a folder of their own, and each
of these things is compared: the result is `equal`, `within the interval` where answers differ but no more
than chance explains, or `different`, with everything that differs. With `train=true` the training is
repeated too. Where data are in another place: dataset.train=, dataset.image_dir= and so on. The exit code
is 0, 1 where something is different, and 2 for a mistake in the command.
"""

import logging
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

from finetune.assembly.finished import open_run, resolve_finished_run
from finetune.assembly.sources import build_source
from finetune.config.jobs import Evaluate, EvaluatedSplit, Train
from finetune.config.publishing import Reproduce
from finetune.jobs import evaluate, train
from finetune.model.options import AdapterBase
from finetune.processes import join_processes, on_main
from finetune.publish.record import Record, digest_result, read_record
from finetune.publish.reproduce import Comparison, compare_records
from finetune.publish.results import ReproduceResult
from finetune.run.files import explain_disk_errors, write_json
from finetune.run.folder import Launch, RunFolder
from finetune.signals import Interrupted

log = logging.getLogger(__name__)

_FILE = "reproduce.json"

AnyJob = TypeVar("AnyJob", Evaluate, Train)


def run(options: Reproduce, launch: Launch) -> ReproduceResult:
    """Repeat a result and compare both.

    Raises:
        UserError: the card has no scores, its data or base are not here, or the folder is taken.
    """
    join_processes()
    # Another base is a finding here, and no mistake.
    asked = replace(_take(Evaluate, options), run=options.card, adapter_base=AdapterBase.any)
    source = open_run(asked, Path(str(options.card)))
    card = read_record(source, str(options.card))
    weights = None if options.train else digest_result(source)
    if options.train:
        _train(options, launch, source)
    else:
        _score(asked, launch, source, card)
    again = read_record(RunFolder(launch.folder), str(launch.folder))
    comparison = compare_records(card, again, weights)
    with explain_disk_errors(launch.folder):
        on_main(lambda: write_json(launch.folder / _FILE, _describe(options, comparison)))
    return ReproduceResult(str(options.card), launch.folder, comparison, options.train)


def _take(job: type[AnyJob], options: Reproduce) -> AnyJob:
    """Return the options of another job, with those that both have."""
    names = {field.name for field in fields(job)} & {field.name for field in fields(options)} - {"train"}
    return job(**{name: getattr(options, name) for name in names})


def _score(asked: Evaluate, launch: Launch, source: RunFolder, card: Record) -> None:
    """Score the result over the splits that it was scored over."""
    with RunFolder(launch.folder) as folder:
        on_main(lambda: folder.check(resume=False, overwrite=asked.overwrite))
        # Weights that were changed are a finding here.
        resolved = resolve_finished_run(asked, source, as_written=False)
        splits = [EvaluatedSplit(split) for split in card.splits]
        if build_source(asked.dataset).for_test() is None:
            splits = [split for split in splits if split != EvaluatedSplit.test]
        for split in splits:
            job = replace(resolved, split=split)
            is_open = split != splits[0]
            evaluate.evaluate_into(folder, asked, job, launch, is_own=True, is_open=is_open)


def _train(options: Reproduce, launch: Launch, source: RunFolder) -> None:
    words = [word for word in launch.command if not word.startswith(("card=", "train=", "run_name="))]
    # The command that continues the training, and repeats it.
    command = ["train" if word == "reproduce" else word for word in words]
    command += [f"recipe={source.config}", f"run_name={launch.folder.name}"]
    done = train.run(_take(Train, options), replace(launch, command=command))
    if done.interrupted is not None:
        raise Interrupted(done.interrupted)


def _describe(options: Reproduce, comparison: Comparison) -> dict[str, object]:
    """Return the content of `reproduce.json`."""
    return {
        "card": options.card,
        "trained": options.train,
        "verdict": comparison.verdict,
        **asdict(comparison),
    }
