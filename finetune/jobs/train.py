"""Train, evaluate, and leave an adapter (or a model) with everything needed to repeat the run.

Reads the checkpoint's configuration first and the data second, so that errors in either are reported
before weights are loaded. The run's folder (runs/NAME) holds config, log, checkpoints, adapter,
predictions and metrics.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, ProgressCallback

from finetune import signals
from finetune.assembly.attention import settle_attention
from finetune.assembly.checkpointing import settle_checkpointing
from finetune.assembly.costs import RunCosts, record_costs
from finetune.assembly.data import (
    Data,
    build_data,
    fingerprint_data,
    warn_of_shared_examples,
)
from finetune.assembly.describe import describe_run
from finetune.assembly.estimate import estimate_here
from finetune.assembly.evaluator import LastEvaluations, build_evaluator
from finetune.assembly.evidence import complete_report
from finetune.assembly.grouping import choose_grouping
from finetune.assembly.image_cache import build_image_cache
from finetune.assembly.lengths import settle_longest_answer
from finetune.assembly.mask_codec import keep_mask_vae
from finetune.assembly.model import Learner, build_learner, settle_compilation
from finetune.assembly.origin import settle_base
from finetune.assembly.packing import settle_packing
from finetune.assembly.room import ImageCache
from finetune.assembly.sources import RECORDED, build_source, record_data
from finetune.assembly.trainer import build_arguments, build_run_metric, part_weights
from finetune.config.jobs import Train
from finetune.config.recipe_file import load_recipe
from finetune.data.batches.workers import choose_workers
from finetune.errors import UserError
from finetune.evaluation.evaluate import Evaluation
from finetune.generation.options import EvaluateWhen
from finetune.jobs.push import check_at_end, push_at_end
from finetune.metrics.metric import Metric
from finetune.model.compiling import compiled_layers
from finetune.model.kernels import AttentionChoice
from finetune.model.load import load_config, load_processor
from finetune.model.options import PeftMethod
from finetune.model.origin import Origin
from finetune.processes import count_processes, is_main_process, join_processes, on_main, warn_of_idle_gpus
from finetune.result import TrainResult, choose_objective
from finetune.run.checkpoints import Checkpoint, list_checkpoints
from finetune.run.environment import describe_environment
from finetune.run.files import explain_disk_errors, write_json, write_jsonl, write_text
from finetune.run.folder import Launch, RunFolder
from finetune.run.log import logging_to
from finetune.run.results import (
    Predictions,
    format_score_table,
    format_scores,
    read_metrics,
    write_training,
)
from finetune.run.resume import check_same_batch, check_same_rows, check_same_settings, find_start
from finetune.run.trackers.several import Trackers
from finetune.speed import format_techniques
from finetune.training.callbacks import ReportLogs, SaveEvery, StopWithoutImprovement
from finetune.training.outcome import (
    describe_result,
    list_evaluations,
    measure_training,
    save_result,
)
from finetune.training.stopping import train_or_stop
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)


def run(options: Train, launch: Launch) -> TrainResult:
    """Train, evaluate, and write the results.

    Raises:
        UserError: a mistake in config, checkpoint or data, a loss that is not finite, a full disk.
        KeyboardInterrupt: the training was interrupted; a checkpoint of the last step was saved.
    """
    started = time.monotonic()
    signals.advise("Nothing was trained yet: the same command starts again.")
    join_processes()
    with RunFolder(launch.folder) as folder:
        trackers = Trackers(folder, Path(options.runs_dir), options.tracker)
        start = on_main(lambda: check_start(options, folder, launch.recipe))
        on_main(trackers.check)
        on_main(lambda: check_at_end(options.push))
        warn_of_idle_gpus(launch.command)
        metric = build_run_metric(options)
        asked, options = options.model.revision, settle_base(options, folder)
        checkpoint = load_config(options.model.path, options.model.revision, options.model.resolution)
        processor = load_processor(options.model.path, options.model.revision)
        data = build_data(options, processor, metric)
        launch = record_settings(options, folder, launch, data)
        estimate = estimate_here(options, checkpoint, data.row_lengths)
        options = settle_checkpointing(options, estimate)
        learner = build_learner(options, checkpoint, processor)
        images = build_image_cache(options, learner.model, processor, data)
        learner = replace(learner, techniques=learner.techniques + images.techniques)
        validation = images.attach(data.validation)
        evaluator = build_evaluator(
            options.evaluation, options.trainer, validation, data.evaluation_collator, metric
        )
        evaluate = LastEvaluations(evaluator)
        trainer = build_trainer(options, learner.model, data, images, evaluate, metric, trackers)
        trainer.add_callback(ReportLogs(trackers.log))
        # Everything that may refuse its settings has read them: only now is an older run deleted.
        batch = trainer.check_settings()
        recorded = None if start is None else folder.environment
        attention = settle_attention(options, learner.model, batch, recorded)
        compilation = settle_compilation(options, learner.model)
        packing = settle_packing(options, trainer, data.lengths)
        learner.techniques.extend([attention.technique, compilation, packing])
        costs = RunCosts(estimate.with_checkpointing(options), launch.command)
        first = 0 if start is None else start.step
        base = replace(learner.origin, revision=asked)
        with opened(folder, options, launch, data, trainer, base, attention), trackers.running(first):
            log_beginning(options, folder, data, learner, images, trainer)
            with compiled_layers(learner.model, compilation):
                interrupted = train_or_stop(
                    trainer, start, folder.checkpoints, launch.command, costs.advise
                )
            if interrupted is not None:
                return TrainResult(folder.root, {}, {}, list_history(trainer), interrupted=interrupted)
            on_main(lambda: record_costs(folder, costs.compare(trainer)))
            result = finish(options, folder, data, images, trainer, learner, evaluate, metric, trackers)
            log.info("%.0f seconds in all; the run is in %s", time.monotonic() - started, folder.root)
        pushed = on_main(lambda: push_at_end(options, folder))
        objective = choose_objective(result["final"], options.evaluation.metric_for_best_model, metric)
        history, final = list_history(trainer), result["final"]
        return TrainResult(folder.root, final, result, history, objective=objective, pushed=pushed)


def check_start(options: Train, folder: RunFolder, recipe: str) -> Checkpoint | None:
    """Check that the run may have its folder, before anything slow is done.

    Returns:
        The checkpoint from which a resumed run continues; None to start from the beginning.

    Raises:
        UserError: the folder is taken, or the run in it cannot be resumed with these settings.
    """
    folder.check(resume=options.resume, overwrite=options.overwrite)
    if not options.resume:
        return None
    check_same_settings(folder.config, recipe, RECORDED, load_recipe)
    check_same_batch(folder, options.trainer.global_batch_size, count_processes())
    by_best = options.evaluation.metric_for_best_model is not None
    return find_start(folder, max_steps=options.trainer.max_steps, with_best=by_best)


def record_settings(options: Train, folder: RunFolder, launch: Launch, data: Data) -> Launch:
    """Add the values that were taken from the data to the run's `config.yaml`.

    Raises:
        UserError: the data of a resumed run are others than before, or give other values.
    """
    settle_longest_answer(options.evaluation, data.answers, len(data.validation))
    launch = record_data(launch, data.task, options.evaluation)
    if options.resume:
        on_main(lambda: check_same_settings(folder.config, launch.recipe, RECORDED, load_recipe))
        on_main(lambda: check_same_rows(folder, data.identity))
    return launch


def build_trainer(
    options: Train,
    model: nn.Module,
    data: Data,
    images: ImageCache,
    evaluate: LastEvaluations,
    metric: Metric,
    trackers: Trackers,
) -> PaliGemmaTrainer:
    """Build the trainer, with finetune's log lines in place of transformers'."""
    # Short enough for a line of a terminal: the table at the end and history.jsonl have all fields.
    chosen = options.evaluation.metric_for_best_model or "loss"
    on_the_way = dict.fromkeys([*list(metric.higher_is_better)[:3], chosen, "unfinished", "loss"])

    def evaluate_split(learner: nn.Module, step: int) -> dict[str, float]:
        evaluate.best_step = trainer.state.best_global_step
        evaluation = evaluate(learner, step)
        scores = evaluation.scores
        shown = {name: scores[name] for name in on_the_way if name in scores}
        log.info("step %d/%d  validation  %s", step, trainer.args.max_steps, format_scores(shown))
        trackers.show(step, predictions_of(options, data, evaluation))
        return {name: value for name, value in scores.items() if not isinstance(value, dict)}

    assert data.train is not None, "this job has trained on something"
    evaluation = options.evaluation
    arguments = build_arguments(
        options.trainer, evaluation, options.seed, metric, len(data.train), stored=images.is_full
    )
    grouping, technique = choose_grouping(options.trainer, data.lengths, arguments)
    trainer = PaliGemmaTrainer(
        model,
        arguments,
        data.collator,
        images.attach(data.train),
        loss=options.trainer.loss,
        towers=options.trainer.towers,
        parts=part_weights(options.dataset, data.train),
        grouping=grouping,
        evaluate_split=evaluate_split if evaluation.strategy != EvaluateWhen.no else None,
    )
    trainer.techniques.append(technique)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if evaluation.metric_for_best_model is not None and options.trainer.save_steps is not None:
        # The trainer saves what it evaluates.
        trainer.add_callback(SaveEvery(options.trainer.save_steps))
    if (patience := evaluation.early_stopping_patience) is not None:
        field, greater_is_better = arguments.metric_for_best_model, arguments.greater_is_better
        trainer.add_callback(StopWithoutImprovement(patience, field, greater_is_better))
    return trainer


@contextmanager
def opened(
    folder: RunFolder,
    options: Train,
    launch: Launch,
    data: Data,
    trainer: PaliGemmaTrainer,
    base: Origin,
    attention: AttentionChoice,
) -> Iterator[None]:
    """Write in the run's folder while the block runs; it is deleted again if no step was taken.

    Raises:
        UserError: the folder is taken, or the disk is full.
    """
    texts = on_main(lambda: open_folder(folder, options, launch, data, base, attention))
    trainer.before_save = lambda: folder.restore(texts)
    try:
        log_file = logging_to(folder.log) if is_main_process() else nullcontext()
        with explain_disk_errors(folder.root), log_file:
            on_main(lambda: keep_mask_vae(data.task, folder.mask_vae))
            yield
    except (UserError, KeyboardInterrupt):
        if trainer.state.global_step == 0 and is_main_process() and not folder.is_begun:
            folder.discard()
        raise


def open_folder(
    folder: RunFolder,
    options: Train,
    launch: Launch,
    data: Data,
    base: Origin,
    attention: AttentionChoice,
) -> dict[Path, str]:
    """Claim the run's folder, and write its config and environment.

    Returns:
        File -> content, to restore a folder that is deleted during the run.

    Raises:
        UserError: the folder is taken.
    """
    folder.claim(resume=options.resume, overwrite=options.overwrite)
    with explain_disk_errors(folder.root):
        for checkpoint in list_checkpoints(folder.checkpoints):
            if not checkpoint.is_sealed:
                log.warning("ignored incomplete checkpoint %s", checkpoint.folder)
        write_text(folder.config, launch.recipe)
        environment = describe_environment(launch.command, asdict(base), asdict(attention), data.identity)
        write_json(folder.environment, environment)
        if data.dropped:
            write_jsonl(folder.skipped, data.dropped)
    files = (folder.config, folder.environment)
    return {file: file.read_text(encoding="utf-8") for file in files}


def log_beginning(
    options: Train,
    folder: RunFolder,
    data: Data,
    learner: Learner,
    images: ImageCache,
    trainer: PaliGemmaTrainer,
) -> None:
    """Log data, model, shortcuts and steps of the training."""
    warn_of_shared_examples(data)
    log.info("%s", describe_run(options, folder.root, data.train, data.validation, data.test))
    log.info("%s", learner.table)
    techniques = [*learner.techniques, data.collator.pixels.technique, *trainer.techniques]
    log.info("%s", format_techniques(techniques))
    draws = trainer.args.max_steps * trainer.global_batch // trainer.passes.processes
    workers = choose_workers(options.trainer.dataloader_num_workers, draws, stored=images.is_full)
    workers = workers._replace(processes=trainer.args.dataloader_num_workers)
    log.info("batches are made by %s", workers.describe())
    sizes = len(trainer.train_dataset), len(data.validation), trainer.global_batch
    steps = trainer.args.max_steps
    log.info("%d train and %d validation examples, batch %d, %d steps", *sizes, steps)


def finish(
    options: Train,
    folder: RunFolder,
    data: Data,
    images: ImageCache,
    trainer: PaliGemmaTrainer,
    learner: Learner,
    evaluate: LastEvaluations,
    metric: Metric,
    trackers: Trackers,
) -> dict[str, Any]:
    """Save and evaluate the final model, and write the results and their report; collective.

    Returns:
        The content of `metrics.json`.
    """
    result = describe_result(trainer)
    log.info("the result is %s", result["why"])
    target = folder.model if options.peft.method == PeftMethod.none else folder.adapter
    result["sha256"] = save_result(trainer, learner.processor, target)
    model = trainer.accelerator.unwrap_model(trainer.model)
    evaluation = evaluate(model, result["step"])
    before = on_main(lambda: read_metrics(folder))
    metrics = {
        "final": evaluation.scores,
        "result": result,
        "train": measure_training(trainer, before.get("train", {})),
        "evaluations": list_evaluations(trainer),
        "dataset": build_source(options.dataset).describe("validation"),
        "data": fingerprint_data(data),
        "parameters": learner.parameters,
        "backbone": model.config.text_config.model_type,
    }
    predictions = predictions_of(options, data, evaluation)
    test = score_test(options, data, images, trainer, metric)
    if test is not None:
        metrics["test"] = test.scores

    def write() -> dict[str, Any]:
        if trainer.before_save is not None:
            trainer.before_save()
        return write_training(
            folder, predictions, metrics, list_history(trainer), None if test is None else test.rows
        )

    on_main(write)
    trackers.report(result["step"], evaluation.scores, predictions)
    sets = {"validation": (data, evaluation)}
    if data.test is not None and test is not None:
        sets["test"] = (replace(data, validation=data.test), test)
    for split, (examples, scored) in sets.items():
        rows = folder.predictions / f"{split}.jsonl"
        more_follow = split != list(sets)[-1]
        complete_report(options, folder, model, examples, metric, scored, rows, more_follow)
    written = on_main(lambda: read_metrics(folder))
    for split, (_, scored) in sets.items():
        beside = written if split == "validation" else written.get("test_evidence", {})
        title = f"final scores, {split}"
        log.info("%s", format_score_table(title, scored.scores, beside.get("intervals", {})))
    return written


def predictions_of(options: Train, data: Data, evaluation: Evaluation) -> Predictions:
    """Return the prediction rows of an evaluation with the images of the validation split."""
    return Predictions(
        evaluation.rows, lambda index: data.validation[index].images[0], options.evaluation.pictures
    )


def score_test(
    options: Train, data: Data, images: ImageCache, trainer: PaliGemmaTrainer, metric: Metric
) -> Evaluation | None:
    """Score the final model over the test split, once; None without one. Collective."""
    if data.test is None:
        return None
    test, collator = images.attach(data.test), data.evaluation_collator
    evaluate = build_evaluator(options.evaluation, options.trainer, test, collator, metric)
    return evaluate(trainer.accelerator.unwrap_model(trainer.model))


def list_history(trainer: PaliGemmaTrainer) -> list[dict[str, float]]:
    """Return the logged steps and evaluations."""
    return [dict(entry) for entry in trainer.state.log_history if "train_runtime" not in entry]
