"""Ask a finished run (run=FOLDER), or any checkpoint and adapter, about your images.

`image=` is a file, a folder, a pattern, or several of these; `prefix=` the prompt. Without it the run's
task asks as in training, with `question=`, `expression=`, `labels=` or `choices=`; `prompts=FILE` has a
prompt a line. Each answer is a line with a JSON object on standard output: `image`, `prefix`, `prediction`,
`confidence`, and for an answer with locations `width`, `height` and `prediction_objects` with boxes in
pixels, masks as run lengths and scores.

With `out=FOLDER` the lines are also appended to its `predictions.jsonl`, and the images are written there
with the predicted objects drawn in. The same command again asks only what has no answer yet.

An image that cannot be decoded is left out and named at the end; then the exit code is 2, although all
others were answered.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.assembly.answering import Session, name_drawings
from finetune.assembly.custom import object_options
from finetune.assembly.finished import open_run
from finetune.assembly.predictor import Predictor
from finetune.assembly.prompts import (
    Given,
    Prompt,
    Rows,
    Wording,
    build_prompts,
    find_images,
    name_images,
    number_rows,
    read_prompts,
)
from finetune.config.jobs import Predict
from finetune.data.images import Picture
from finetune.errors import UserError
from finetune.model.load import resolve_path
from finetune.model.origin import fingerprint_weights
from finetune.progress import track
from finetune.result import PredictResult
from finetune.run.answers import AnswerFolder, Key
from finetune.run.checkpoints import digest_weights
from finetune.run.files import read_json
from finetune.run.folder import Launch, RunFolder

log = logging.getLogger(__name__)


def run(
    options: Predict,
    launch: Launch,
    images: Sequence[Given] | None = None,
    prompts: Sequence[Mapping[str, object]] | None = None,
) -> PredictResult:
    """Answer the prompts.

    Args:
        options: name the model and, without `images`, files.
        launch: how the job was started.
        images: files, open images or arrays.
        prompts: with `image`, `prefix` or fields of the task's prompt, as in a file of prompts.

    Returns:
        The rows, generated one batch at a time while they are iterated.

    Raises:
        UserError: no image or prompt, no image can be read, or model and adapter do not fit.
    """
    folder = open_run(options, launch.folder)
    out = None if options.out is None else Path(options.out)
    root = None
    if images is None and options.picture is not None:
        images, root = find_images(options.picture, out)
    rows: Rows | None = None if prompts is None else number_rows(prompts)
    if options.prompts is not None:
        rows = read_prompts(Path(options.prompts))
    wording = Wording(options.prefix, options.fields, find_example(folder) if options.run else "")
    asked = build_prompts(options, wording, name_images(images or ()), rows)
    answers: AnswerFolder | None = None
    drawings: Mapping[Key, Path] = {}
    if out is not None:
        answers = AnswerFolder(out, describe_settings(options, folder), options.overwrite)
        drawings = name_drawings(asked, root, answers)
    known = {} if answers is None else answers.rows
    left_out = check_headers([prompt for prompt in asked if prompt.key not in known])
    todo = any(prompt.key not in known and prompt.name not in left_out for prompt in asked)
    session = Session(answers, drawings, left_out)
    predictor = Predictor(options, folder) if todo else None
    if predictor is not None:
        predictor.check_lengths(asked)
    listed = None if answers is None else answers.left_out
    return PredictResult(session.answer_all(predictor, asked), session.faults, listed)


def check_headers(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Read the header of every image, before any weights are read.

    Returns:
        Name of each image that cannot be read -> why.

    Raises:
        UserError: none can be read.
    """
    faults: dict[str, str] = {}
    files = dict.fromkeys(prompt.name for prompt in prompts if isinstance(prompt.image, Path))
    for name in track(files, "check images", "image", leave=False):
        try:
            if not Path(name).exists():
                raise UserError(f"no image `{name}`.")
            Picture(name, "predict").size()
        except UserError as error:
            faults[name] = str(error).removeprefix("predict: ")
    if faults and len(faults) == len({prompt.name for prompt in prompts}):
        shown = list(faults.values())[:3]
        more = f" And {len(faults) - 3} more." if len(faults) > 3 else ""
        raise UserError(f"{' '.join(shown)}{more}")
    if faults:
        first = next(iter(faults.values()))
        log.warning("warning: left out: %d of %d images. The first: %s", len(faults), len(files), first)
    return faults


def find_example(folder: RunFolder) -> str:
    """Return a prompt that a run was evaluated with; empty if there is none."""
    try:
        with (folder.predictions / "validation.jsonl").open(encoding="utf-8") as lines:
            return str(json.loads(next(lines))["prefix"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return ""


def describe_settings(options: Predict, folder: RunFolder) -> dict[str, Any]:
    """Return what the answers depend on besides image and prompt."""
    model, evaluation, trainer = options.model, options.evaluation, options.trainer
    objects = object_options(options.task)
    result = read_json(folder.metrics).get("result") if options.run and folder.metrics.is_file() else None
    return {
        "run": None if options.run is None else str(Path(options.run).absolute()),
        "result": result,
        "model": f"{model.path} {model.revision or ''} {model.resolution or ''}".strip(),
        "adapter": options.adapter and f"{options.adapter} {options.adapter_revision or ''}".strip(),
        # Weights in a folder may be replaced; those of a run have the digest above.
        "weights": None if options.run else fingerprint_weights(Path(resolve_path(model.path))),
        "adapter weights": digest_weights(Path(options.adapter)) if options.adapter else None,
        "model.dtype": model.dtype.value,
        "model.final_logit_softcap": model.final_logit_softcap,
        "quantization": options.peft.storage,
        "trainer.bf16": trainer.bf16,
        "trainer.fp16": trainer.fp16,
        "task.divisor": None if objects is None else objects.divisor,
        "prefix": options.prefix,
        **dict.fromkeys(("question", "expression", "labels", "choices")),
        **options.fields,
        "prompts": options.prompts,
        "num_beams": evaluation.num_beams,
        "max_new_tokens": evaluation.max_new_tokens,
        "grammar": evaluation.grammar.value,
        "resize": options.image.resize.value,
    }
