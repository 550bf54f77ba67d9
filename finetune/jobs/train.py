"""Train, evaluate, and leave an adapter (or a model) with everything needed to repeat the run.

Reads the checkpoint's configuration first and the data second, so that mistakes in either are told
before any weights are read. The run's folder (runs/NAME) holds config, log, checkpoints, adapter,
predictions and metrics.
"""

import logging
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
    TrainingArguments,
    set_seed,
)

from finetune.config.schema import PeftMethod, RunConfig, Strategy
from finetune.errors import UserError
from finetune.jobs.parts import (
    build_collators,
    build_train,
    build_validation,
    call_target,
    format_scores,
    load_base,
    load_splits,
    on_main_first,
    prepare_model,
    run_evaluation,
    set_up_logging,
    warn_of_shared_examples,
)
from finetune.metrics.metric import Metric
from finetune.model.freeze import checkpoint_activations, run_frozen_tower_without_graph
from finetune.model.load import load_config, load_processor
from finetune.model.table import count_parameters, format_table
from finetune.run_folder import (
    COMPLETE,
    Launch,
    RunFolder,
    describe_environment,
    explain_disk_errors,
    write_folder,
    write_json,
    write_jsonl,
    write_text,
)
from finetune.training.callbacks import Progress, StopOnSignal
from finetune.training.optimizer import TowerRates
from finetune.training.order import count_steps
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)

MAY_CHANGE = ("resume", "overwrite", "evaluation", "tracker", "trainer.max_steps")
"""Keys that a resumed run may be given anew."""


def run(config: RunConfig, launch: Launch) -> None:
    """Run one training.

    Raises:
        UserError: a mistake in config, checkpoint or data, a loss that is not finite, a full disk.
        SystemExit: a signal ended the run, after a checkpoint was saved.
    """
    started = time.monotonic()
    PartialState(cpu=not torch.cuda.is_available())
    folder = RunFolder(launch.folder)
    metric: Metric = call_target(config.metric)
    check_best_metric(config, metric)
    set_up_logging()
    checkpoint = load_config(config.model.path, config.model.revision, config.model.resolution)
    processor = load_processor(config.model.path, config.model.revision)
    train_collator, evaluation_collator = build_collators(config, processor)
    splits = load_splits(config)
    train, dropped = build_train(config, splits, train_collator)
    validation = build_validation(config, splits)
    on_main_first(lambda: open_folder(folder, config, launch, dropped))
    set_up_logging(folder.log)
    warn_of_shared_examples(splits)

    set_seed(config.seed)
    model = prepare_model(config, load_base(config, checkpoint))
    run_frozen_tower_without_graph(model)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)
    log.info("%s", format_table(count_parameters(model)))

    def evaluate_split(learner: nn.Module) -> dict[str, float]:
        result = run_evaluation(config, learner, validation, evaluation_collator, processor, metric)
        log.info("%s", format_scores(result.scores))
        return {name: v for name, v in result.scores.items() if not isinstance(v, dict)}

    arguments = build_arguments(config, folder, len(train))
    stop = StopOnSignal()
    trainer = PaliGemmaTrainer(
        model,
        arguments,
        train_collator,
        train,
        loss_average=config.trainer.loss.average,
        label_smoothing=config.trainer.loss.label_smoothing,
        towers=tower_rates(config),
        evaluate_split=evaluate_split if config.evaluation.strategy != Strategy.no else None,
        mark_complete=lambda path: write_text(path / COMPLETE, ""),
    )
    use_own_callbacks(trainer, config, stop)
    log.info(
        "%d train and %d validation examples, batch %d, %d steps",
        len(train),
        len(validation),
        trainer.global_batch,
        arguments.max_steps,
    )
    with explain_disk_errors(folder.root), stop.listening():
        last = folder.last_checkpoint() if config.resume else None
        outcome = trainer.train(resume_from_checkpoint=str(last) if last else None)
    if stop.received is not None and trainer.state.global_step < arguments.max_steps:
        say_how_to_resume(launch, trainer.state.global_step, stop.received.name)
        raise SystemExit(128 + stop.received)
    with explain_disk_errors(folder.root):
        on_main_first(lambda: save_result(trainer.model, processor, config, folder))
        result = run_evaluation(config, trainer.model, validation, evaluation_collator, processor, metric)
        metrics = {
            "final": result.scores,
            "train": {
                "steps": trainer.state.global_step,
                "loss": outcome.training_loss,
                "examples_per_second": outcome.metrics["train_samples_per_second"],
                "seconds": round(time.monotonic() - started, 1),
            },
            "evaluations": [
                {name.removeprefix("eval_"): value for name, value in entry.items()}
                for entry in trainer.state.log_history
                if any(name.startswith("eval_") for name in entry)
            ],
        }
        if PartialState().is_main_process:
            write_jsonl(folder.predictions / "validation.jsonl", result.rows)
            write_json(folder.metrics, metrics)
    log.info("%s", format_scores(result.scores))
    log.info("%.0f seconds in all; the run lies in %s", time.monotonic() - started, folder.root)


def check_best_metric(config: RunConfig, metric: Metric) -> None:
    """Check that the field which chooses the best checkpoint is one that is computed.

    Raises:
        UserError: lists the fields there are.
    """
    name = config.evaluation.metric_for_best_model
    known = [*metric.higher_is_better, "confidence", *(["loss"] if config.evaluation.loss else [])]
    if name is not None and name not in known:
        raise UserError(
            f"evaluation.metric_for_best_model={name}: the evaluation computes {', '.join(known)}."
        )


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
                print(f"left out {partial}: it was not written to its end")
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


def build_arguments(config: RunConfig, folder: RunFolder, examples: int) -> TrainingArguments:
    """Translate the config into transformers' arguments."""
    options, evaluation = config.trainer, config.evaluation
    batch = options.per_device_train_batch_size * options.gradient_accumulation_steps
    batch *= PartialState().num_processes
    per_epoch = count_steps(examples, batch, 1, 0)
    evaluate_every = evaluation.steps if evaluation.strategy == Strategy.steps else per_epoch
    best = evaluation.metric_for_best_model
    # The best checkpoint can only be one that was saved when it was evaluated.
    save_every = evaluate_every if best else options.save_steps or per_epoch
    metric: Metric = call_target(config.metric)
    better = {**metric.higher_is_better, "confidence": True, "loss": False}
    same_names = (
        "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
        "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "adam_beta1", "adam_beta2",
        "adam_epsilon", "max_grad_norm", "bf16", "fp16", "logging_steps", "save_total_limit",
        "dataloader_num_workers", "dataloader_prefetch_factor",
    )  # fmt: skip
    return TrainingArguments(
        output_dir=str(folder.checkpoints),
        max_steps=count_steps(examples, batch, options.num_train_epochs, options.max_steps),
        seed=config.seed,
        eval_strategy="no" if evaluation.strategy == Strategy.no else "steps",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=save_every,
        load_best_model_at_end=best is not None,
        metric_for_best_model=f"eval_{best}" if best else None,
        greater_is_better=better[best] if best else None,
        report_to=[] if config.tracker.report_to == "none" else [config.tracker.report_to],
        project=config.tracker.project,
        run_name=folder.root.name,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_nan_inf_filter=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        **{name: getattr(options, name) for name in same_names},
        **options.extra,
    )


def tower_rates(config: RunConfig) -> dict[str, TowerRates]:
    """Return the exceptions to learning rate and weight decay."""
    towers = config.trainer.towers
    return {
        name: TowerRates(tower.learning_rate, tower.weight_decay) for name, tower in vars(towers).items()
    }


def use_own_callbacks(trainer: PaliGemmaTrainer, config: RunConfig, stop: StopOnSignal) -> None:
    """Replace transformers' printing by ours, and add what the config asks for."""
    for name in ("PrinterCallback", "ProgressCallback"):
        for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == name]:
            trainer.remove_callback(callback)
    trainer.add_callback(Progress(trainer.global_batch))
    if config.evaluation.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.evaluation.early_stopping_patience))
    trainer.add_callback(stop)


def say_how_to_resume(launch: Launch, step: int, signal_name: str) -> None:
    """Tell which command goes on from the checkpoint."""
    words = [word for word in launch.command if not word.startswith(("overwrite=", "resume="))]
    log.warning(
        "%s: stopped after step %d; its checkpoint is saved. Go on with:\n  %s resume=true",
        signal_name,
        step,
        " ".join(words),
    )


def save_result(
    model: PreTrainedModel, processor: PaliGemmaProcessor, config: RunConfig, folder: RunFolder
) -> None:
    """Save the adapter or the model, with the processor, whole or not at all."""
    target = folder.model if config.peft.method == PeftMethod.none else folder.adapter
    write_folder(target, lambda path: (model.save_pretrained(path), processor.save_pretrained(path)))
