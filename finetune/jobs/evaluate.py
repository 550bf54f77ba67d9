"""Score a finished run (run=FOLDER), or any checkpoint and adapter (model=ID adapter=ID_OR_FOLDER).

With `run=` the run's config is the recipe, so that each of its values may be overridden
(`evaluation.num_beams=3`), and scores and prediction rows are added to the run's folder. Without `run=` a
recipe names data, task and metric, and the results get their own folder. Only the validation split is read
(`split=test`: the test split), unless it is a share of the training split (`dataset.validation_fraction`).
"""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finetune.assembly.custom import build_metric
from finetune.assembly.data import Data, build_data, fingerprint_data
from finetune.assembly.describe import describe_run
from finetune.assembly.evaluator import build_evaluator
from finetune.assembly.evidence import complete_report
from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.image_cache import build_image_cache
from finetune.assembly.lengths import settle_longest_answer
from finetune.assembly.sources import build_source, choose_test, record_data
from finetune.config.jobs import Evaluate, EvaluatedSplit
from finetune.evaluation.evaluate import Evaluation
from finetune.metrics.doubts import Level
from finetune.metrics.observe import find_doubts
from finetune.model.load import load_config, load_processor
from finetune.model.origin import Origin, find_origin
from finetune.processes import join_processes, on_main
from finetune.result import EvaluateResult, choose_objective
from finetune.run.environment import describe_environment
from finetune.run.files import explain_disk_errors, write_json, write_jsonl, write_text
from finetune.run.folder import Launch, RunFolder
from finetune.run.results import Predictions, add_evaluation, format_score_table, read_metrics

log = logging.getLogger(__name__)


def run(options: Evaluate, launch: Launch) -> EvaluateResult:
    """Score a model over the validation split.

    Raises:
        UserError: the run is not finished, or model, adapter and data do not fit.
    """
    join_processes()
    with RunFolder(launch.folder) as folder:
        on_main(lambda: check_folder(options, folder))
        resolved = resolve_finished_run(options, folder)
        return evaluate_into(folder, options, resolved, launch, is_own=options.run is None)


def evaluate_into(
    folder: RunFolder,
    asked: Evaluate,
    options: Evaluate,
    launch: Launch,
    *,
    is_own: bool,
    is_open: bool = False,
) -> EvaluateResult:
    """Score a model, and write the scores.

    Args:
        folder: where to write them.
        asked: the options that the report describes.
        options: the same, with model and adapter of the run that is scored, if one is.
        launch: how the job was started.
        is_own: the folder is for such scores alone. Or else they are added to those of the run in it.
        is_open: the folder was made before, for another split.

    Raises:
        UserError: see `run`.
    """
    metric = build_metric(options)
    if options.split == EvaluatedSplit.test:
        options = replace(options, dataset=choose_test(options))
    checkpoint = load_config(options.model.path, options.model.revision, options.model.resolution)
    processor = load_processor(options.model.path, options.model.revision)
    data = build_data(options, processor, metric, training=False, evaluated=options.split)
    settle_longest_answer(options.evaluation, data.answers, len(data.validation))
    if not is_own:
        on_main(folder.lock)
    model = load_trained(options, checkpoint)
    if is_own and not is_open:
        launch = record_data(launch, data.task, options.evaluation)
        base = replace(find_origin(options.model), revision=asked.model.revision)
        on_main(lambda: open_folder(folder, options, launch, base))
    log.info("%s", describe_run(options, folder.root, None, data.validation))
    images = build_image_cache(options, model, processor, data)
    for technique in images.techniques:
        if technique.is_on or getattr(options.trainer.speed, technique.option):
            log.info("%s %s  %s", technique.option, "on" if technique.is_on else "off", technique.detail)
    examples, collator = images.attach(data.validation), data.evaluation_collator
    evaluate = build_evaluator(options.evaluation, options.trainer, examples, collator, metric)
    evaluation = evaluate(model)
    digests = fingerprint_data(data, options.split)
    for doubt in find_doubts(metric, evaluation.rows, evaluation.scores):
        if doubt.level != Level.note:
            log.warning("warning: %s", doubt.text)
    file = on_main(lambda: write(options, folder, launch.command, data, evaluation, digests, is_own=is_own))
    complete_report(asked, folder, model, data, metric, evaluation, file)
    written = on_main(lambda: read_metrics(folder))["evaluate"][-1]
    title = f"scores, {options.split} ({written['dataset']})"
    log.info("%s", format_score_table(title, evaluation.scores, written.get("intervals", {})))
    log.info("prediction rows: %s", file)
    best = options.evaluation.metric_for_best_model
    objective = choose_objective(evaluation.scores, best, metric)
    return EvaluateResult(folder.root, file, evaluation.scores, objective=objective)


def check_folder(options: Evaluate, folder: RunFolder) -> None:
    """Check that the scores may be written into the folder, before anything slow is done.

    Raises:
        UserError: it is in use, or its `metrics.json` cannot be read.
    """
    if options.run is None:
        folder.check(resume=False, overwrite=options.overwrite)
    else:
        read_metrics(folder)


def open_folder(folder: RunFolder, options: Evaluate, launch: Launch, base: Origin) -> None:
    """Claim a new folder for scores that do not belong to a run."""
    folder.claim(resume=False, overwrite=options.overwrite)
    with explain_disk_errors(folder.root):
        write_text(folder.config, launch.recipe)
        write_json(folder.environment, describe_environment(launch.command, asdict(base)))


def write(
    options: Evaluate,
    folder: RunFolder,
    command: list[str],
    data: Data,
    evaluation: Evaluation,
    digests: dict[str, dict[str, Any]],
    *,
    is_own: bool,
) -> Path:
    """Write the scores; those of a run are added next to its final predictions, which are kept.

    Returns:
        The file of the prediction rows.
    """
    predictions = Predictions(
        evaluation.rows,
        lambda index: data.validation[index].images[0],
        options.evaluation.pictures if is_own else 0,
    )
    entry = {
        "command": command,
        "split": options.split,
        "dataset": build_source(options.dataset).describe("validation"),
        "data": digests,
        "scores": evaluation.scores,
    }
    with explain_disk_errors(folder.root):
        file = add_evaluation(
            folder, predictions, entry, options.split if is_own else f"{options.split}.evaluate"
        )
        if data.dropped:
            skipped = folder.skipped if is_own else file.with_suffix(".skipped.jsonl")
            write_jsonl(skipped, data.dropped)
    return file
