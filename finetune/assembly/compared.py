"""Finished runs put side by side: their folders read, their metrics built, their images loaded."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from finetune.assembly.custom import instantiate
from finetune.assembly.data import build_validation
from finetune.assembly.sources import RECORDED, build_task, load_splits
from finetune.comparison.pairs import Differing, Pair, Row, compare_pair, identify
from finetune.comparison.runs import FinishedRun, read_run
from finetune.comparison.table import Comparison, compare
from finetune.config.choices import GROUP_SCHEMAS, build_node
from finetune.config.compose import add_recipe, compose_words, to_options
from finetune.config.recipe_file import load_recipe
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.metrics.bootstrap import bootstrap
from finetune.metrics.jsonl import JsonlRows
from finetune.metrics.metric import Metric
from finetune.metrics.several import Several
from finetune.report.draw import draw_prediction
from finetune.report.thumbnail import thumbnail
from finetune.run.folder import RunFolder
from finetune.run.results import read_metrics
from finetune.run.resume import has_settings

log = logging.getLogger(__name__)

_SECONDS = 20.0
"""For the intervals of all runs together, where the runs have none."""

_SIDE = 480
"""Pixels of an image on the page."""


def compare_folders(folders: Sequence[Path], forgiving: bool) -> tuple[Comparison, Pair | None]:
    """Read runs and put them side by side.

    Args:
        folders: of the runs.
        forgiving: list runs without scores instead of refusing them.

    Returns:
        The comparison, and the rows of two runs with the same metric.

    Raises:
        UserError: a run has no scores, or cannot be read.
    """
    names = _name_runs(folders)
    runs: list[FinishedRun] = []
    parts: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for folder in folders:
        try:
            settings = _read_settings(folder)
            runs.append(read_run(folder, names[folder], settings))
            parts.append(settings)
        except UserError as error:
            if not forgiving:
                raise
            missing[names[folder]] = str(error)
    if not runs:
        raise UserError("No run has scores: " + " ".join(missing.values()))
    metrics = {_metric_key(settings): settings for settings in parts}
    built = {key: build_metric(settings) for key, settings in metrics.items()}
    keys = [_metric_key(settings) for settings in parts]
    completed: list[FinishedRun] = []
    questions: list[str | None] = []
    kept: list[list[Row]] = []
    for run, key in zip(runs, keys, strict=True):
        rows = _read_rows(run)
        completed.append(_with_intervals(run, built[key], rows, _SECONDS / len(runs)))
        questions.append(identify(rows) if rows else None)
        kept = [*kept, rows][-2:]
    notes = _note(completed, len(built) > 1, questions)
    is_pair = len(completed) == 2 and len(built) == 1 and all(kept)
    directions = {**_directions(built.values()), "confidence": True, "loss": False}
    comparable = len(built) == 1 and len({one for one in questions if one}) < 2
    main = _choose_main(completed, directions) if comparable else None
    pair = compare_pair(built[keys[0]], kept[0], kept[1], _SECONDS) if is_pair else None
    return compare(completed, directions, main, notes, missing), pair


def has_same_settings(folder: Path, recipe: str) -> bool:
    """Return whether a run has these settings.

    Args:
        folder: of the run.
        recipe: text of the settings.
    """
    return has_settings(folder / "config.yaml", recipe, RECORDED, load_recipe)


def read_objective(folder: Path) -> float | None:
    """Return the number by which a training is compared with others; None if it is not finished."""
    if "final" not in read_metrics(RunFolder(folder)):
        return None
    settings = _read_settings(folder)
    run, directions = read_run(folder, folder.name, settings), _directions([build_metric(settings)])
    return run.scores.get(_choose_main([run], {**directions, "confidence": True, "loss": False}))


def _name_runs(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the runs' names: those of their folders, or the paths where these are not unique."""
    names = [folder.resolve().name for folder in folders]
    is_unique = len(set(names)) == len(names)
    return {folder: name if is_unique else str(folder) for folder, name in zip(folders, names, strict=True)}


def _read_settings(folder: Path) -> dict[str, Any]:
    settings = OmegaConf.to_container(load_recipe(folder / "config.yaml"))
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def build_metric(settings: Mapping[str, Any]) -> Metric:
    """Build the metric of a run from its `config.yaml`, whether or not its data can still be read.

    Raises:
        UserError: it cannot be built.
    """
    choices = {
        str(key): str(choice)
        for entry in settings.get("defaults") or ()
        for key, choice in (entry.items() if isinstance(entry, Mapping) else ())
    }
    main = _build_one(choices.get("override /metric"), settings.get("metric"))
    others = {
        name: _build_one(choices.get(f"/metric@metrics.{name}"), node)
        for name, node in (settings.get("metrics") or {}).items()
    }
    return Several(main, others) if others else main


def _build_one(choice: str | None, values: Any) -> Metric:
    schema = GROUP_SCHEMAS["metric"].get(choice or "")
    try:
        node: Any = values
        if schema is not None:
            node = OmegaConf.to_object(OmegaConf.merge(build_node(schema), values or {}))
        if node is None:
            raise UserError("config.yaml names no metric.")
        metric: Metric = instantiate(node, "metric")
    except OmegaConfBaseException as error:
        raise UserError(f"The metric `{choice}` of config.yaml: {str(error).splitlines()[0]}") from error
    return metric


def _metric_key(settings: Mapping[str, Any]) -> str:
    choices = [entry for entry in settings.get("defaults") or () if "metric" in str(entry)]
    return json.dumps([choices, settings.get("metric"), settings.get("metrics")], default=str)


def _directions(metrics: Any) -> dict[str, bool]:
    return {name: better for metric in metrics for name, better in metric.higher_is_better.items()}


def _choose_main(runs: Sequence[FinishedRun], directions: Mapping[str, bool]) -> str:
    """Return the field by which all runs chose their best checkpoint, or the metric's main one."""
    chosen = {run.settings.get("evaluation.metric_for_best_model") for run in runs}
    name = str(chosen.pop()) if len(chosen) == 1 else ""
    return name if name in directions else next(iter(directions))


def _read_rows(run: FinishedRun) -> list[Row]:
    """Return the prediction rows; empty if the file is gone.

    Raises:
        UserError: a line is not a row.
    """
    if not run.rows.is_file() or not run.rows.stat().st_size:
        return []
    with closing(JsonlRows(run.rows)) as rows:
        return list(rows)


def _with_intervals(run: FinishedRun, metric: Metric, rows: list[Row], seconds: float) -> FinishedRun:
    """Add intervals to a run whose folder has none."""
    if run.intervals or not rows:
        return run
    found = bootstrap(metric, rows, seconds=seconds)
    return FinishedRun(**{**vars(run), "intervals": found})


def _note(runs: Sequence[FinishedRun], has_metrics: bool, questions: Sequence[str | None]) -> list[str]:
    """Return what limits the comparison."""
    notes = []
    if has_metrics:
        notes.append(
            "the runs have different metrics: only fields of the same name can be compared, and only where "
            "their options are the same."
        )
    if len({one for one in questions if one}) > 1:
        sizes = ", ".join(f"{run.name}: {run.scores.get('n', 0):,.0f}" for run in runs)
        notes.append(
            f"the runs were not scored on the same rows ({sizes}): a better score may come from an easier "
            "set."
        )
    gone = [run.name for run, one in zip(runs, questions, strict=True) if one is None]
    if gone:
        notes.append(f"without prediction rows, and so without intervals: {', '.join(gone)}.")
    return notes


def image_loader(run: FinishedRun) -> Callable[[Differing], str]:
    """Return a function that shows the image of a row, from the run's data, or its folder if that is gone.

    Args:
        run: reads the same rows as the other one.
    """
    try:
        examples = _open_data(run.folder)
        places = {str(row_id): index for index, row_id in enumerate(examples.rows["id"])}
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        log.warning("warning: the page has no images, as the data cannot be read: %s", error)
        return lambda one: ""

    def load(one: Differing) -> str:
        index = places.get(one.key[0])
        if index is None:
            return ""
        try:
            return thumbnail(_draw(examples[index].images[0], one), _SIDE)
        except UserError as error:
            log.warning("warning: row `%s` is shown without its image: %s", one.key[0], error)
            return ""

    return load


def _open_data(folder: Path) -> ExampleDataset:
    """Return the examples that a run was scored on."""
    composed, _ = compose_words([f"recipe={add_recipe(folder / 'config.yaml')}"], "evaluate")
    options = to_options(composed)
    splits = load_splits(options, training=False)
    return build_validation(options, splits, build_task(options, splits, False))


def _draw(image: Image.Image, one: Differing) -> Image.Image:
    """Return an image; with objects, the answers of both runs beside each other."""
    if "prediction_objects" not in one.first:
        return image
    drawn = []
    for row in (one.first, one.second):
        objects = {"prediction_objects": row.get("prediction_objects") or [], "objects": row.get("objects")}
        drawn.append(draw_prediction(image, objects))  # type: ignore[arg-type]
    both = Image.new("RGB", (2 * drawn[0].width + 8, drawn[0].height), "white")
    both.paste(drawn[0], (0, 0))
    both.paste(drawn[1], (drawn[0].width + 8, 0))
    return both
