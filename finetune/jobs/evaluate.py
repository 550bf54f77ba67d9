"""Score a finished run (run=FOLDER), or any checkpoint and adapter (model=ID adapter=ID_OR_FOLDER).

With `run=` the run's own config is the recipe, so that every value of it may be overridden
(`evaluation.num_beams=3`), and scores and prediction rows go into the run's folder. Without it a recipe
names data, task and metric, and the result is a folder of its own.
"""

import logging

import torch
from accelerate import PartialState

from finetune.config.schema import RunConfig
from finetune.jobs.parts import (
    build_collators,
    build_evaluator,
    build_task,
    build_validation,
    check_references,
    format_scores,
    load_splits,
    set_up_logging,
)
from finetune.jobs.pictures import write_pictures
from finetune.jobs.target import call_target
from finetune.jobs.trained import load_trained, point_at_result
from finetune.metrics.metric import Metric
from finetune.model.load import load_config, load_processor
from finetune.processes import on_main
from finetune.run.environment import describe_environment
from finetune.run.files import explain_disk_errors, read_json, write_json, write_jsonl, write_text
from finetune.run.folder import Launch, RunFolder

log = logging.getLogger(__name__)


def run(config: RunConfig, launch: Launch) -> None:
    """Score a model over the validation split.

    Raises:
        UserError: the run is not finished, or model, adapter and data do not fit.
    """
    PartialState(cpu=not torch.cuda.is_available())
    set_up_logging()
    metric: Metric = call_target(config.metric)
    folder = RunFolder(launch.folder)
    if config.run is None:
        on_main(lambda: folder.check(resume=False, overwrite=config.overwrite))
    else:
        on_main(folder.lock)
    point_at_result(config, folder)
    checkpoint = load_config(config.model.path, config.model.revision, config.model.resolution)
    processor = load_processor(config.model.path, config.model.revision)
    _, collator = build_collators(config, processor)
    splits = load_splits(config, training=False)
    validation = build_validation(config, splits, build_task(config, splits))
    check_references(metric, validation)
    model = load_trained(config, checkpoint)
    if config.run is None:
        on_main(lambda: open_folder(folder, config, launch))
    evaluation = build_evaluator(config, validation, collator, processor, metric)(model)
    # Beside the run's own final predictions, which stay as they are.
    rows = folder.predictions / f"validation{'.evaluate' if config.run else ''}.jsonl"
    with explain_disk_errors(folder.root):
        if PartialState().is_main_process:
            write_jsonl(rows, evaluation.rows)
            if config.run is None:
                write_pictures(folder.pictures, validation, evaluation.rows, config.evaluation.pictures)
            metrics = read_json(folder.metrics) if folder.metrics.is_file() else {}
            scored = {"command": launch.command, "scores": evaluation.scores}
            metrics["evaluate"] = [*metrics.get("evaluate", []), scored]
            write_json(folder.metrics, metrics)
    log.info("%s", format_scores(evaluation.scores))
    log.info("prediction rows: %s", rows)
    folder.release()


def open_folder(folder: RunFolder, config: RunConfig, launch: Launch) -> None:
    """Claim a folder for the scores of a model that no run of ours made."""
    folder.claim(resume=False, overwrite=config.overwrite)
    with explain_disk_errors(folder.root):
        write_text(folder.config, launch.recipe)
        write_json(folder.environment, describe_environment(launch.command))
