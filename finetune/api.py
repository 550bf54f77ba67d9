"""The commands as functions, for notebooks and other programs; `finetune` exports them.

Arguments are the words of the command line: `train("recipe=quickstart", "peft.r=16")`. Keywords are the
same keys with Python values: `train(recipe="quickstart", peft={"r": 16}, **{"trainer.max_steps": 100})`. A
dict contains the keys of a group, and a text is taken literally, whatever characters it has.

The functions return objects, raise `UserError` and print nothing; `finetune/call.py` runs them.
"""

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finetune.call import prepare_job, run_job, undisturbed, without_bars
from finetune.config.published import name_model
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.assembly.predictor import Predictor
    from finetune.assembly.prompts import Given
    from finetune.onnx.result import ExportResult
    from finetune.publish.results import MergeResult, PushResult, ReproduceResult
    from finetune.result import (
        CompareResult,
        EvaluateResult,
        PlanResult,
        PredictResult,
        PreviewResult,
        ReportResult,
        ScoreResult,
        TrainResult,
    )
    from finetune.web.result import DemoResult

log = logging.getLogger(__name__)


def train(*words: str, **options: object) -> "TrainResult":
    """Train, evaluate, and leave an adapter (or a model) in the run's folder.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: a mistake in the options or the data.
        KeyboardInterrupt: from Ctrl-C, after a checkpoint was saved; a program that handles SIGINT itself
            stays in charge of it.
    """
    return cast("TrainResult", run_job("train", words, options))


def evaluate(*words: str, **options: object) -> "EvaluateResult":
    """Score a finished run (`run=FOLDER`), or any checkpoint and adapter.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: a mistake in the options or the data.
    """
    return cast("EvaluateResult", run_job("evaluate", words, options))


def predict(
    *words: str,
    image: "Given | Sequence[Given] | None" = None,
    prompts: str | Path | Sequence[Mapping[str, Any]] | None = None,
    **options: object,
) -> "PredictResult":
    """Answer prompts about images: `prefix=`, or that of the run's task with `question=` and others.

    Args:
        words: `key=value`, as on the command line.
        image: a file, a folder, a pattern, an open image, an array of uint8 (height, width, 3), or a list
            of files, open images and arrays.
        prompts: a JSONL file of prompts, or a list of its rows, whose `image` may also be open.
        options: values by key.

    Returns:
        A prediction row for each image that can be decoded, and why the others cannot.

    Raises:
        UserError: a mistake in the options, or the only image cannot be decoded.
    """
    inputs: dict[str, object] = {}
    if isinstance(image, str | Path | Mapping):
        options["image"] = image
    elif image is not None:
        inputs["images"] = list(image) if isinstance(image, Sequence) else [image]
    if isinstance(prompts, str | Path):
        options["prompts"] = prompts
    elif prompts is not None:
        inputs["prompts"] = prompts
    result = run_job("predict", words, options, **inputs)
    result = cast("PredictResult", result)
    if result.left_out and not result.rows:
        raise UserError("\n".join(result.left_out))
    for fault in result.left_out:
        log.warning("warning: left out: %s", fault)
    return result


def score(
    *words: str, predictions: str | Path | Iterable[Mapping[str, Any]] | None = None, **options: object
) -> "ScoreResult":
    """Score predictions of any model with `metric=NAME`.

    Args:
        words: `key=value`, as on the command line.
        predictions: a JSONL file of prediction rows, or the rows.
        options: values by key.

    Raises:
        UserError: a row lacks a field that the metric needs, or the rows are surely mistaken.
    """
    if predictions is None or isinstance(predictions, str | Path):
        given = {} if predictions is None else {"predictions": predictions}
        return cast("ScoreResult", run_job("score", words, {**given, **options}))
    return cast("ScoreResult", run_job("score", words, options, predictions=predictions))


def plan(*words: str, **options: object) -> "PlanResult":
    """Return what learns and how many steps there will be, without reading any weights.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: a mistake in the options or the data.
    """
    return cast("PlanResult", run_job("plan", words, options))


def write_report(*words: str, **options: object) -> "ReportResult":
    """Write the page of a finished run (`run=FOLDER`) again; not `report`, which is the name of a part.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: the folder has no finished run.
    """
    return cast("ReportResult", run_job("report", words, options))


def preview(*words: str, **options: object) -> "PreviewResult":
    """Write a page with examples as the model will see them, and check the data (`validate=True`: all).

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: a mistake in the options, or a file cannot be read at all.
    """
    return cast("PreviewResult", run_job("preview", words, options))


def compare(*folders: str | Path, **options: object) -> "CompareResult":
    """Compare finished runs, or those of a sweep: settings, scores with intervals, cost, and answers.

    Args:
        folders: of two runs or more, or of a sweep.
        options: values by key.

    Raises:
        UserError: a folder holds no finished run.
    """
    return cast("CompareResult", run_job("compare", list(map(str, folders)), options))


def merge(*words: str, **options: object) -> "MergeResult":
    """Merge the adapter of a finished run into its base (`run=FOLDER out=FOLDER`), or any adapter.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: a mistake in the options, the adapter does not fit, or the merged model does not compute
            what the adapter computes.
    """
    return cast("MergeResult", run_job("merge", words, options))


def export(*words: str, **options: object) -> "ExportResult":
    """Write the result of a run (`run=FOLDER`) to `out=FOLDER`, for browsers and other runtimes.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Returns:
        The files, and how far their answers agree with the run's model.

    Raises:
        UserError: the run is not finished, the folder is taken, or the answers do not agree.
    """
    return cast("ExportResult", run_job("export", words, options))


def demo(*words: str, **options: object) -> "DemoResult":
    """Show a finished run (`run=FOLDER`) on a page in the browser, or write a Space (`export=FOLDER`).

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Returns:
        The page with its `url`; it is served by threads until `close()` is called or the program ends.

    Raises:
        UserError: the run is not finished, the port is in use, or Gradio is missing.
    """
    return cast("DemoResult", run_job("demo", words, options))


def reproduce(*words: str, **options: object) -> "ReproduceResult":
    """Score a run or a published result again (`card=FOLDER` or `card=USER/NAME`), and compare.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: the card has no scores, or its data or base are not here.
    """
    return cast("ReproduceResult", run_job("reproduce", words, options))


def push(*words: str, **options: object) -> "PushResult":
    """Publish a finished run (`run=FOLDER`) on the Hub (`repo=USER/NAME`), as one commit.

    Args:
        words: `key=value`, as on the command line.
        options: values by key.

    Raises:
        UserError: the run is not finished, a file has a secret in it, or the Hub refuses the push.
    """
    return cast("PushResult", run_job("push", words, options))


def load(*words: str | Path, **options: object) -> "Predictor":
    """Load a model: `load("runs/NAME")`, `load("USER/NAME")`, `load(model=ID, adapter=ID)`.

    Args:
        words: a run, an adapter or a checkpoint by its folder or its name on the Hub (`USER/NAME`, or
            `USER/NAME@REVISION`); and `key=value`, as for `predict`.
        options: values by key. An adapter without `model=` is put on the base that it names.

    Returns:
        A function of images, which returns answers with boxes and masks; it has `model` and `processor`.

    Raises:
        UserError: the run is not finished, model and adapter do not fit, or the Hub does not have them.
    """
    with undisturbed():
        job, launch = prepare_job("predict", *name_model(words, options))
        module = importlib.import_module("finetune.assembly.predictor")
        finished = importlib.import_module("finetune.assembly.finished")
        with without_bars():
            folder = finished.open_run(job, launch.folder.absolute())
            return cast("Predictor", module.Predictor(job, folder))
