"""Train, evaluate, and leave an adapter (or a model) with everything needed to repeat the run.

Reads the checkpoint's configuration first and the data second, so that mistakes in either are told
before any weights are read. The run's folder (runs/NAME) holds config, log, checkpoints, adapter,
predictions and metrics.
"""

import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from transformers import PrinterCallback, ProgressCallback

from finetune import signals
from finetune.assembly.data import build_collators, build_data, warn_of_shared_examples
from finetune.assembly.describe import describe_run
from finetune.assembly.evaluator import LastEvaluations, build_evaluator
from finetune.assembly.lengths import settle_longest_answer
from finetune.assembly.mask_codec import keep_mask_vae
from finetune.assembly.model import build_learner
from finetune.assembly.pictures import write_pictures
from finetune.assembly.results import (
    describe_result,
    format_scores,
    measure_training,
    save_result,
    write_metrics,
)
from finetune.assembly.resume import (
    check_folder,
    check_same_settings,
    has_stopped_early,
    resume_command,
)
from finetune.assembly.sources import record_data
from finetune.assembly.trackers import Tracker
from finetune.assembly.trainer import (
    build_arguments,
    build_metric,
    part_weights,
)
from finetune.config.jobs import Train
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.generation.options import EvaluateWhen
from finetune.metrics.metric import Metric
from finetune.model.load import load_config, load_processor
from finetune.processes import on_main
from finetune.run.checkpoints import Checkpoint, list_checkpoints
from finetune.run.environment import describe_environment
from finetune.run.files import explain_disk_errors, write_json, write_jsonl, write_text
from finetune.run.folder import Launch, RunFolder
from finetune.run.log import set_up_logging
from finetune.training.callbacks import Progress, StopOnSignal, StopWithoutImprovement
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)


def run(config: Train, launch: Launch) -> None:
    """Run one training.

    Raises:
        UserError: a mistake in config, checkpoint or data, a loss that is not finite, a full disk.
        SystemExit: a signal ended the run, after a checkpoint was saved.
    """
    started = time.monotonic()
    signals.advise("Nothing was trained yet: the same command starts again.")
    PartialState(cpu=not torch.cuda.is_available())
    set_up_logging()
    folder = RunFolder(launch.folder)
    start = on_main(lambda: check_folder(config, folder, launch))
    tracker = Tracker(config, launch)
    on_main(tracker.check)
    warn_of_idle_gpus(launch)
    metric = build_metric(config)
    checkpoint = load_config(config.model.path, config.model.revision, config.model.resolution)
    processor = load_processor(config.model.path, config.model.revision)
    collator, evaluation_collator = build_collators(config, processor)
    data = build_data(config, (collator, evaluation_collator), metric)
    assert data.train is not None
    launch = record_data(launch, data.task)
    launch = settle_longest_answer(config.evaluation, launch, data.answers, len(data.validation))
    if config.resume:
        on_main(lambda: check_same_settings(folder.config, launch.recipe))

    learner = build_learner(config, checkpoint, processor)
    evaluate = LastEvaluations(build_evaluator(config, data.validation, evaluation_collator, metric))
    trainer = build_trainer(config, learner.model, collator, data.train, evaluate, metric)
    # Everything that can refuse its settings has read them; only now is an older run deleted.
    trainer.check_settings()
    texts = on_main(lambda: open_folder(folder, config, launch, data.dropped))
    trainer.before_save = lambda: folder.restore(texts)
    trainer.add_callback(tracker)
    with discarded_unless_trained(folder, trainer), explain_disk_errors(folder.root), tracker.running():
        on_main(lambda: keep_mask_vae(data.task, folder.mask_vae))
        set_up_logging(folder.log)
        warn_of_shared_examples(data)
        log.info("%s", describe_run(config, folder.root, data.train, data.validation))
        log.info("%s", learner.table)
        log.info("%s", describe_steps(trainer, data.validation))
        train_or_stop(trainer, start, config, folder, launch)
        result = describe_result(trainer)
        log.info("the result is %s", result["why"])
        result["sha256"] = on_main(lambda: save_result(trainer.model, learner.processor, config, folder))
        evaluation = evaluate(trainer.model, result["step"])
        tracker.report(evaluation.scores)
        measured = measure_training(trainer)
        on_main(lambda: folder.restore(texts))
        if PartialState().is_main_process:
            write_jsonl(folder.predictions / "validation.jsonl", evaluation.rows)
            write_pictures(folder.pictures, data.validation, evaluation.rows, config.evaluation.pictures)
            write_metrics(folder.metrics, trainer, measured, result, evaluation)
    folder.release()
    log.info("final  validation  %s", format_scores(evaluation.scores))
    log.info("%.0f seconds in all; the run is in %s", time.monotonic() - started, folder.root)


def describe_steps(trainer: PaliGemmaTrainer, validation: ExampleDataset) -> str:
    """Return how many examples, in which batches, make how many steps."""
    return (
        f"{len(trainer.train_dataset)} train and {len(validation)} validation examples, batch "
        f"{trainer.global_batch}, {trainer.args.max_steps} steps"
    )


def warn_of_idle_gpus(launch: Launch) -> None:
    """Say that one process uses one GPU, and which command uses all that are visible."""
    visible = torch.cuda.device_count()
    if visible > 1 and PartialState().num_processes == 1:
        words = launch.command[launch.command.index("-m") :]
        log.warning(
            "%d GPUs are visible, and this process uses one. For all of them: %s",
            visible,
            shlex.join(["torchrun", "--nproc-per-node", str(visible), *words]),
        )


def open_folder(
    folder: RunFolder, config: Train, launch: Launch, dropped: list[dict[str, str]]
) -> dict[Path, str]:
    """Claim the run's folder and write down what is about to run.

    Returns:
        Contents by file, for a folder that is deleted while the run goes on.

    Raises:
        UserError: the folder is taken.
    """
    folder.claim(resume=config.resume, overwrite=config.overwrite)
    with explain_disk_errors(folder.root):
        for checkpoint in list_checkpoints(folder.checkpoints):
            if not checkpoint.is_sealed:
                log.warning("ignored %s: it was not written to its end", checkpoint.folder)
        write_text(folder.config, launch.recipe)
        write_json(folder.environment, describe_environment(launch.command))
        if dropped:
            write_jsonl(folder.skipped, dropped)
    files = (folder.config, folder.environment)
    return {file: file.read_text(encoding="utf-8") for file in files}


def build_trainer(
    config: Train,
    model: nn.Module,
    collator: Collator,
    train: ExampleDataset,
    evaluate: LastEvaluations,
    metric: Metric,
) -> PaliGemmaTrainer:
    """Build the trainer, with our own printing in place of transformers'."""

    def evaluate_split(learner: nn.Module, step: int) -> dict[str, float]:
        evaluate.best_step = trainer.state.best_global_step
        scores = evaluate(learner, step).scores
        log.info("step %d/%d  validation  %s", step, trainer.args.max_steps, format_scores(scores))
        return {name: value for name, value in scores.items() if not isinstance(value, dict)}

    arguments = build_arguments(config.trainer, config.evaluation, config.seed, metric, len(train))
    trainer = PaliGemmaTrainer(
        model,
        arguments,
        collator,
        train,
        loss=config.trainer.loss,
        towers=config.trainer.towers,
        parts=part_weights(config, train),
        evaluate_split=evaluate_split if config.evaluation.strategy != EvaluateWhen.no else None,
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if config.evaluation.early_stopping_patience is not None:
        trainer.add_callback(
            StopWithoutImprovement(
                config.evaluation.early_stopping_patience,
                arguments.metric_for_best_model,
                arguments.greater_is_better,
            )
        )
    return trainer


def train_or_stop(
    trainer: PaliGemmaTrainer,
    start: Checkpoint | None,
    config: Train,
    folder: RunFolder,
    launch: Launch,
) -> None:
    """Train, from a checkpoint where the run is resumed.

    Raises:
        UserError: an example cannot be read, or a loss is not finite. What was trained is saved.
        SystemExit: a signal came; a checkpoint was saved, and the command that goes on was logged.
    """
    progress, stop = Progress(trainer.global_batch), StopOnSignal()
    trainer.add_callback(progress)
    trainer.add_callback(stop)
    trainer.args.output_dir = str(folder.checkpoints)
    if start is not None and has_stopped_early(trainer, start):
        trainer.args.max_steps = start.step
    signals.advise(
        f"What was trained since the last checkpoint is lost. Go on with:\n  {resume_command(launch)}"
    )
    try:
        with stop.listening(), progress.closing():
            trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    except UserError as error:
        if trainer.state.global_step == 0 or trainer.is_broken:
            raise
        trainer.save_now()
        raise UserError(
            f"{error}\nStopped after step {trainer.state.global_step}; its checkpoint is saved. Once that "
            f"is mended, go on with:\n  {resume_command(launch)}"
        ) from error
    if stop.received is not None:
        step = trainer.state.global_step
        log.warning(
            "%s: stopped after step %d; its checkpoint is saved. Go on with:\n  %s",
            stop.received.name,
            step,
            resume_command(launch),
        )
        raise SystemExit(128 + stop.received)
    signals.advise(f"Everything that was trained is saved. Go on with:\n  {resume_command(launch)}")


@contextmanager
def discarded_unless_trained(folder: RunFolder, trainer: PaliGemmaTrainer) -> Iterator[None]:
    """Delete the folder again where a mistake or a signal ends the block before the first step."""
    try:
        yield
    except (UserError, signals.Interrupted):
        if trainer.state.global_step == 0 and PartialState().is_main_process and not folder.is_begun:
            folder.discard()
        raise
