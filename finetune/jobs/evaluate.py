"""Score a finished run (run=FOLDER), or any checkpoint and adapter (model=ID adapter=ID_OR_FOLDER).

With `run=` the run's own config is the recipe, so that every value of it may be overridden
(`evaluation.num_beams=3`), and scores and prediction rows go into the run's folder. Without it a recipe
names data, task and metric, and the result is a folder of its own. Only the validation split is read,
unless it is a share of the training split (`dataset.validation_fraction`).
"""

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from finetune.assembly.custom import instantiate
from finetune.assembly.data import build_collators, build_data
from finetune.assembly.describe import describe_run
from finetune.assembly.evaluator import build_evaluator
from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.lengths import settle_longest_answer
from finetune.assembly.pictures import write_pictures
from finetune.assembly.results import format_scores
from finetune.assembly.sources import build_source, record_data
from finetune.config.jobs import Evaluate
from finetune.errors import UserError
from finetune.metrics.doubts import Level
from finetune.metrics.metric import Metric
from finetune.metrics.observe import find_doubts
from finetune.model.load import load_config, load_processor
from finetune.processes import on_main
from finetune.run.environment import describe_environment
from finetune.run.files import explain_disk_errors, read_json, write_json, write_jsonl, write_text
from finetune.run.folder import Launch, RunFolder
from finetune.run.log import set_up_logging

log = logging.getLogger(__name__)


def run(config: Evaluate, launch: Launch) -> None:
    """Score a model over the validation split.

    Raises:
        UserError: the run is not finished, or model, adapter and data do not fit.
    """
    PartialState(cpu=not torch.cuda.is_available())
    set_up_logging()
    metric: Metric = instantiate(config.metric, "metric")
    folder = RunFolder(launch.folder)
    if config.run is None:
        on_main(lambda: folder.check(resume=False, overwrite=config.overwrite))
    read_metrics(folder.metrics if config.run else None)
    config = resolve_finished_run(config, folder)
    checkpoint = load_config(config.model.path, config.model.revision, config.model.resolution)
    processor = load_processor(config.model.path, config.model.revision)
    collators = build_collators(config, processor)
    data = build_data(config, collators, metric, training=False)
    validation = data.validation
    launch = settle_longest_answer(config.evaluation, launch, data.answers, len(validation))
    if config.run is not None:
        on_main(folder.lock)
    model = load_trained(config, checkpoint)
    if config.run is None:
        launch = record_data(launch, data.task)
        on_main(lambda: open_folder(folder, config, launch))
    log.info("%s", describe_run(config, folder.root, None, validation))
    evaluation = build_evaluator(config, validation, collators[1], metric)(model)
    for doubt in find_doubts(metric, evaluation.rows, evaluation.scores):
        if doubt.level != Level.note:
            log.warning("warning: %s", doubt.text)
    scored = {
        "command": launch.command,
        "dataset": build_source(config.dataset).describe("validation"),
        "scores": evaluation.scores,
    }
    with explain_disk_errors(folder.root):
        if PartialState().is_main_process:
            # Next to the run's own final predictions, which stay as they are.
            rows = write_result(folder, scored, evaluation.rows, ".evaluate" if config.run else "")
            if config.run is None:
                write_pictures(folder.pictures, validation, evaluation.rows, config.evaluation.pictures)
            if data.dropped:
                beside = rows.with_suffix(".skipped.jsonl")
                write_jsonl(beside if config.run else folder.root / "skipped.jsonl", data.dropped)
            log.info("validation (%s)  %s", scored["dataset"], format_scores(evaluation.scores))
            log.info("prediction rows: %s", rows)
    folder.release()


def read_metrics(file: Path | None) -> dict[str, Any]:
    """Return what `metrics.json` holds, nothing where there is none.

    Raises:
        UserError: it cannot be read, or is not ours; found before anything is scored.
    """
    if file is None or not file.is_file():
        return {}
    metrics = read_json(file)
    entries = metrics.get("evaluate", []) if isinstance(metrics, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"{file}: expected an object as a run writes it, with a list of evaluations. Move it away, or "
            "restore it."
        )
    return metrics


def write_result(
    folder: RunFolder, scored: dict[str, Any], rows: list[dict[str, Any]], ending: str
) -> Path:
    """Add an evaluation to `metrics.json`, and write its rows; those of the one before keep a number.

    Args:
        folder: of the run.
        scored: the entry, without the name of its rows.
        rows: the prediction rows.
        ending: of their file's name, behind `validation`.

    Returns:
        The file of the rows.
    """
    metrics = read_metrics(folder.metrics)
    entries: list[Any] = metrics.get("evaluate", [])
    file = folder.predictions / f"validation{ending}.jsonl"
    if entries and file.is_file():
        kept = file.with_name(f"validation{ending}.{len(entries)}.jsonl")
        file.rename(kept)
        entries[-1] = {**entries[-1], "rows": str(kept.relative_to(folder.root))}
    write_jsonl(file, rows)
    entry = {**scored, "rows": str(file.relative_to(folder.root))}
    write_json(folder.metrics, {**metrics, "evaluate": [*entries, entry]})
    return file


def open_folder(folder: RunFolder, config: Evaluate, launch: Launch) -> None:
    """Claim a folder for the scores of a model that no run of ours made."""
    folder.claim(resume=False, overwrite=config.overwrite)
    with explain_disk_errors(folder.root):
        write_text(folder.config, launch.recipe)
        write_json(folder.environment, describe_environment(launch.command))
