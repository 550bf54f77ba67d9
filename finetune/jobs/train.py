"""Train, evaluate, and leave an adapter (or a model) with everything needed to repeat the run.

Reads the checkpoint's configuration first and the data second, so that mistakes in either are told
before any weights are read. The run's folder (runs/NAME) holds config, log, checkpoints, adapter,
predictions and metrics.
"""

import logging
import shlex
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from omegaconf import OmegaConf
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PaliGemmaProcessor,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    set_seed,
)
from transformers.trainer_utils import TrainOutput

from finetune.config.schema import PeftMethod, RunConfig, Strategy
from finetune.data.collator import Collator
from finetune.data.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.evaluation.evaluate import Evaluation
from finetune.jobs.arguments import (
    build_arguments,
    check_best_metric,
    part_weights,
    point_tracker,
    tower_rates,
)
from finetune.jobs.mask_codec import keep_mask_vae
from finetune.jobs.parts import (
    Evaluator,
    build_collators,
    build_evaluator,
    build_task,
    build_train,
    build_validation,
    check_references,
    format_scores,
    load_base,
    load_splits,
    on_main,
    prepare_model,
    set_up_logging,
    warn_of_shared_examples,
)
from finetune.jobs.pictures import write_pictures
from finetune.jobs.target import call_target
from finetune.metrics.metric import Metric
from finetune.model.dropout import drop_residual_branches
from finetune.model.freeze import checkpoint_activations, run_frozen_tower_without_graph
from finetune.model.load import load_config, load_processor
from finetune.model.table import count_parameters, format_table
from finetune.run_folder import (
    COMPLETE,
    Launch,
    RunFolder,
    describe_environment,
    explain_disk_errors,
    read_json,
    write_folder,
    write_json,
    write_jsonl,
    write_text,
)
from finetune.training.callbacks import Progress, StopOnSignal
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)

MAY_CHANGE = ("evaluation", "tracker", "trainer.max_steps")
"""Keys that a resumed run may be given anew."""


def run(config: RunConfig, launch: Launch) -> None:
    """Run one training.

    Raises:
        UserError: a mistake in config, checkpoint or data, a loss that is not finite, a full disk.
        SystemExit: a signal ended the run, after a checkpoint was saved.
    """
    started = time.monotonic()
    PartialState(cpu=not torch.cuda.is_available())
    set_up_logging()
    folder = RunFolder(launch.folder)
    on_main(lambda: folder.check(resume=config.resume, overwrite=config.overwrite))
    metric: Metric = call_target(config.metric)
    check_best_metric(config, metric)
    checkpoint = load_config(config.model.path, config.model.revision, config.model.resolution)
    processor = load_processor(config.model.path, config.model.revision)
    collator, evaluation_collator = build_collators(config, processor)
    splits = load_splits(config)
    task = build_task(config, splits)
    train, dropped = build_train(config, splits, task, collator)
    dropped = [*({"reason": fault} for fault in splits.skipped), *dropped]
    validation = build_validation(config, splits, task)
    check_references(metric, validation)

    set_seed(config.seed)
    model = prepare_model(config, load_base(config, checkpoint))
    drop_residual_branches(model, config.model.llm_dropout)
    run_frozen_tower_without_graph(model)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)

    on_main(lambda: open_folder(folder, config, launch, dropped))
    on_main(lambda: keep_mask_vae(getattr(task, "mask_vae", None), folder.mask_vae))
    set_up_logging(folder.log)
    warn_of_shared_examples(splits)
    log.info("%s", format_table(count_parameters(model)))
    evaluator = build_evaluator(config, validation, evaluation_collator, processor, metric)
    with folder.discarded_unless_begun(), explain_disk_errors(folder.root):
        trainer = build_trainer(config, folder, model, collator, train, evaluator, metric)
        sizes = (len(train), len(validation), trainer.global_batch, trainer.args.max_steps)
        log.info("%d train and %d validation examples, batch %d, %d steps", *sizes)
        outcome = train_until_done_or_told_to_stop(trainer, config, folder, launch)
        on_main(lambda: save_result(trainer.model, processor, config, folder))
        result = evaluator(trainer.model)
        if PartialState().is_main_process:
            write_jsonl(folder.predictions / "validation.jsonl", result.rows)
            write_pictures(folder.pictures, validation, result.rows, config.evaluation.pictures)
            before = read_json(folder.metrics) if folder.metrics.is_file() else {}
            write_json(folder.metrics, collect_metrics(trainer, outcome, result, started, before))
    log.info("%s", format_scores(result.scores))
    log.info("%.0f seconds in all; the run lies in %s", time.monotonic() - started, folder.root)


def open_folder(
    folder: RunFolder, config: RunConfig, launch: Launch, dropped: list[dict[str, str]]
) -> None:
    """Claim the run's folder and write down what is about to run.

    Raises:
        UserError: the folder is taken, or a resumed run was given other settings.
    """
    folder.claim(resume=config.resume, overwrite=config.overwrite)
    with explain_disk_errors(folder.root):
        if config.resume:
            check_same_settings(folder.config, launch.recipe)
            for partial in folder.incomplete_checkpoints():
                log.warning("left out %s: it was not written to its end", partial)
        else:
            write_text(folder.config, launch.recipe)
        write_json(folder.environment, describe_environment(launch.command))
        if dropped:
            write_jsonl(folder.root / "skipped.jsonl", dropped)


def check_same_settings(file: Path, recipe: str) -> None:
    """Check that a resumed run goes on with what it was started with.

    Raises:
        UserError: names the keys that differ.
    """
    before, after = (
        OmegaConf.to_container(OmegaConf.create(text))
        for text in (file.read_text(encoding="utf-8"), recipe)
    )
    changed = [key for key in _differences(before, after, "") if not key.startswith(MAY_CHANGE)]
    if changed:
        raise UserError(
            f"resume=true goes on with the settings of {file}, but these differ: "
            f"{', '.join(changed)}. Leave them as they were, or start a new run_name=."
        )


def _differences(before: Any, after: Any, prefix: str) -> list[str]:
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [prefix]
    return [
        key
        for name in sorted(before.keys() | after.keys())
        for key in _differences(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else name)
    ]


def build_trainer(
    config: RunConfig,
    folder: RunFolder,
    model: nn.Module,
    collator: Collator,
    train: ExampleDataset,
    evaluator: Evaluator,
    metric: Metric,
) -> PaliGemmaTrainer:
    """Build the trainer, with our own printing in place of transformers'."""

    def evaluate_split(learner: nn.Module) -> dict[str, float]:
        scores = evaluator(learner).scores
        log.info("%s", format_scores(scores))
        return {name: value for name, value in scores.items() if not isinstance(value, dict)}

    point_tracker(config, folder)
    trainer = PaliGemmaTrainer(
        model,
        build_arguments(config, folder, metric, len(train)),
        collator,
        train,
        loss_average=config.trainer.loss.average,
        label_smoothing=config.trainer.loss.label_smoothing,
        towers=tower_rates(config),
        parts=part_weights(config, train),
        evaluate_split=evaluate_split if config.evaluation.strategy != Strategy.no else None,
        mark_complete=lambda path: write_text(path / COMPLETE, ""),
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if config.evaluation.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.evaluation.early_stopping_patience))
    return trainer


def train_until_done_or_told_to_stop(
    trainer: PaliGemmaTrainer, config: RunConfig, folder: RunFolder, launch: Launch
) -> TrainOutput:
    """Train, from the last complete checkpoint where the run is resumed.

    Raises:
        SystemExit: a signal came; a checkpoint was saved, and the command that goes on was told.
    """
    progress, stop = Progress(trainer.global_batch), StopOnSignal()
    trainer.add_callback(progress)
    trainer.add_callback(stop)
    last = folder.last_checkpoint() if config.resume else None
    with stop.listening(), progress.closing():
        outcome = trainer.train(resume_from_checkpoint=str(last) if last else None)
    if stop.received is not None and trainer.state.global_step < trainer.args.max_steps:
        say_how_to_resume(launch, trainer.state.global_step, stop.received.name)
        raise SystemExit(128 + stop.received)
    return outcome


def say_how_to_resume(launch: Launch, step: int, signal_name: str) -> None:
    """Tell which command goes on from the checkpoint."""
    words = [word for word in launch.command if not word.startswith(("overwrite=", "resume="))]
    log.warning(
        "%s: stopped after step %d; its checkpoint is saved. Go on with:\n  %s resume=true",
        signal_name,
        step,
        shlex.join(words),
    )


def save_result(
    model: PreTrainedModel, processor: PaliGemmaProcessor, config: RunConfig, folder: RunFolder
) -> None:
    """Save the adapter or the model, with the processor, whole or not at all."""
    target = folder.model if config.peft.method == PeftMethod.none else folder.adapter
    write_folder(target, lambda path: (model.save_pretrained(path), processor.save_pretrained(path)))


def collect_metrics(
    trainer: PaliGemmaTrainer,
    outcome: TrainOutput,
    result: Evaluation,
    started: float,
    before: dict[str, Any],
) -> dict[str, Any]:
    """Lay out `metrics.json`: the final scores, the training, and each evaluation on the way.

    Args:
        trainer: after training.
        outcome: what its training returned.
        result: the final evaluation.
        started: when the command began, by the monotonic clock.
        before: what `metrics.json` held; a finished run that is resumed takes no step of its own.
    """
    train = {
        "steps": trainer.state.global_step,
        "loss": outcome.training_loss,
        "examples_per_second": outcome.metrics["train_samples_per_second"],
        "seconds": round(time.monotonic() - started, 1),
    }
    if before.get("train", {}).get("steps") == trainer.state.global_step:
        log.info("the run had taken all its steps already; it was evaluated again")
        train = before["train"]
    return {
        "final": result.scores,
        "train": train,
        "evaluations": [
            {name.removeprefix("eval_"): value for name, value in entry.items()}
            for entry in trainer.state.log_history
            if any(name.startswith("eval_") for name in entry)
        ],
    }
